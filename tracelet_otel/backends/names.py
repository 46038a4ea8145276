"""Which backends there are: their names, and the groups of entry points that they are found in."""

from __future__ import annotations

from importlib.metadata import entry_points

from tracelet_otel.delivery.otlp.forward import NAMES
from tracelet_otel.foundation.entry_points import find

FILE = "file"
OTLP = "otlp"
SPOOLS = "spool"
"""Folder of the spools, below the state folder."""
COMPANIONS = "companions"
"""Folder of the companion files, below the state folder; in it a folder for each tracker."""
TRACKER_GROUP = "tracelet_otel_tracker"
METRICS_GROUP = "opentelemetry_metrics_exporter"
LOGS_GROUP = "opentelemetry_logs_exporter"


def available() -> list[str]:
    """The names of all backends that are installed."""
    names = {item.name for group in (TRACKER_GROUP, METRICS_GROUP) for item in entry_points(group=group)}
    names |= {FILE, OTLP}
    return sorted(name for name in names if not name.startswith("otlp_proto"))


def is_tracker(name: str) -> bool:
    """Whether a backend is a tracker, which takes OTLP and opens runs."""
    return find(TRACKER_GROUP, name) is not None


def is_ours(name: str) -> bool:
    """Whether a backend is only in this distribution: a tracker, ``file`` or ``otlp``."""
    return name in (FILE, OTLP) or is_tracker(name)


def can_be_replayed(name: str) -> bool:
    """Whether a spool can be delivered to a backend."""
    return name in NAMES or is_tracker(name)
