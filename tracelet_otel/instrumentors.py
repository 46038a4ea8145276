"""Switches our own instrumentors on, for ``configure()`` without ``opentelemetry-instrument``."""

from __future__ import annotations

import os
from importlib.metadata import entry_points

from tracelet_otel.guard import Guard

SAMPLED = frozenset({"system_metrics", "gpu"})
"""Entry points of instrumentors whose metrics :mod:`tracelet_otel.sampler` takes, at its own pace."""
_PACKAGE = "tracelet_otel."


def disabled(name: str) -> bool:
    """Whether ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` names this part of us, or all with ``*``."""
    names = os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")
    return any(item.strip() in (name, "*") for item in names)


def instrument() -> None:
    """Hooks every library we know, now or when it is imported.

    Those in ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` are left alone, as OpenTelemetry has it.
    """
    for entry in entry_points(group="opentelemetry_instrumentor"):
        ours = entry.value.startswith(_PACKAGE) and entry.name not in SAMPLED
        if ours and not disabled(entry.name):
            with Guard(f"instrumenting {entry.name}"):
                entry.load()().instrument(skip_dep_check=True)
