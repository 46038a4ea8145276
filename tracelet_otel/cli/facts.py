"""What ``tracelet-otel doctor`` finds out without connecting to a backend."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import fields
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any, Final

import psutil

from tracelet_otel.backends.names import SPOOLS
from tracelet_otel.cli import spools
from tracelet_otel.delivery.spool import reading
from tracelet_otel.foundation.locks import is_folder_locked
from tracelet_otel.instrumentation import instrumentors
from tracelet_otel.resource import launcher
from tracelet_otel.secrets.redaction import redacted_text, redacted_value
from tracelet_otel.settings import RUN_ID_VARIABLE, Settings, resolve, sdk_disabled, source_of
from tracelet_otel.version import VERSION

PACKAGES: Final = (
    *("opentelemetry-sdk", "opentelemetry-instrumentation", "opentelemetry-exporter-otlp"),
    "opentelemetry-configuration",
    *("mlflow", "wandb", "aim", "clearml"),
    *("torch", "tensorboard", "tensorboardX", "lightning", "pytorch-lightning", "nvidia-ml-py"),
)
VARIABLES: Final = ("TRACELET_", "OTEL_", "MLFLOW_", "WANDB_", "AIM_", "CLEARML_")
"""Prefixes of the variables of this distribution, OpenTelemetry and the trackers."""
COUNTED_BYTES: Final = 32 * 1024 * 1024
"""Bytes of spools whose points are counted; to count more would take long."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_HEADER: Final = re.compile(r"=[^,]*")


def installed() -> list[dict[str, str]]:
    """Packages with their versions; empty if one is not installed."""
    found = {"python": platform.python_version(), "tracelet-otel": VERSION}
    found.update((name, _version(name)) for name in PACKAGES)
    return [{"package": name, "version": text} for name, text in found.items()]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def hooked() -> list[dict[str, str]]:
    """Our instrumentors, and whether ``opentelemetry-instrument`` or ``configure()`` applies each."""
    return [
        {"instrumentor": entry.name, "state": _hook_state(entry.name, entry.load())}
        for entry in _instrumentors()
        if _is_ours(entry) or entry.name in instrumentors.SAMPLED
    ]


def _instrumentors() -> list[EntryPoint]:
    return sorted(entry_points(group="opentelemetry_instrumentor"), key=lambda entry: entry.name)


def _is_ours(entry: EntryPoint) -> bool:
    return entry.value.startswith("tracelet_otel.")


def _hook_state(name: str, kind: Any) -> str:
    if sdk_disabled():
        return "off: OTEL_SDK_DISABLED"
    if instrumentors.disabled(name):
        return "off: as configured"
    for requirement in kind().instrumentation_dependencies():
        match = _NAME.match(requirement)
        if match is not None and not _version(match[0]):
            return f"waits: {match[0]} is not installed"
    return "on"


def others() -> dict[str, Any]:
    """What else is installed that ``opentelemetry-instrument`` may load."""
    distro = os.environ.get("OTEL_PYTHON_DISTRO", "")
    return {
        "distros": _names("opentelemetry_distro"),
        "configurators": _names("opentelemetry_configurator"),
        "OTEL_PYTHON_DISTRO": distro,
        "loaded": distro or "tracelet",
        "other_instrumentors": [entry.name for entry in _instrumentors() if not _is_ours(entry)],
    }


def _names(group: str) -> list[str]:
    return sorted({entry.name for entry in entry_points(group=group)})


def configured() -> list[dict[str, Any]]:
    """Each setting with its value, and where that comes from.

    Raises:
        ConfigurationError: a variable is not allowed.
    """
    settings = resolve()
    values = {field.name: getattr(settings, field.name) for field in fields(Settings)}
    values["backends"] = ",".join(settings.backends)
    return [
        {
            "setting": field.name,
            "value": redacted_value(field.name, values[field.name]),
            "unit": field.metadata["unit"],
            "from": source_of(field) or "default",
            "variable": field.metadata["variable"],
        }
        for field in fields(Settings)
    ]


def variables() -> list[dict[str, str]]:
    """The variables that are set, secrets masked."""
    found = {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
    for name, value in found.items():
        if name.endswith("_HEADERS"):  # any name may hold a secret
            found[name] = _HEADER.sub("=***", value)
        else:
            found[name] = redacted_text(str(redacted_value(name, value)))
    return [{"variable": name, "value": value} for name, value in sorted(found.items())]


def run() -> dict[str, Any]:
    """The run that a process started here would write."""
    launch = launcher.detect()
    run_id = os.environ.get(RUN_ID_VARIABLE, "")
    return {
        "id": run_id or launch.run_id,
        "id_from": RUN_ID_VARIABLE if run_id else "launcher" if launch.run_id else "new for each run",
        "rank": launch.rank,
        "launcher": launcher.describe(),
    }


def spooled(state: Path) -> list[dict[str, Any]]:
    """The spools that wait, oldest first."""
    folder = state / SPOOLS
    found = spools.find([folder]) if reading.folders(folder) else []
    budget = COUNTED_BYTES
    rows: list[dict[str, Any]] = []
    for spool in found:
        budget -= spool.size
        points = records = None
        if budget >= 0:
            batches = list(reading.read(spool.path))
            points, records = sum(b.points for b in batches), sum(b.records for b in batches)
        media = sum(file.stat().st_size for file in spool.path.glob("media/*"))
        newest = max((file.stat().st_mtime for file in spool.files), default=time.time())
        rows.append(
            {
                "folder": str(spool.path),
                "backend": ",".join(spool.backends),
                "bytes": spool.size + media,
                "points": points,
                "records": records,
                "age_s": max(0, round(time.time() - newest)),
                "being_written": is_folder_locked(spool.path.parent)
                or (spool.pid is not None and psutil.pid_exists(spool.pid)),
            }
        )
    return rows
