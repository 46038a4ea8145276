"""Measurements of the machine under the names, and in the units, of AIM's own resource tracking.

AIM's are ``__system__cpu`` and ``__system__p_memory_percent`` (of the process), ``__system__memory_percent``,
``__system__disk_percent``, and per GPU ``__system__gpu``, ``__system__gpu_memory_percent``,
``__system__gpu_temp``, ``__system__gpu_power_watts`` (aim/ext/resource/stat.py). What it has no name for gets
one of that form, with OpenTelemetry's name and unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from tracelet_otel.otlp.records import SystemPoint
from tracelet_otel_exporters.aim.sequences import SYSTEM
from tracelet_otel_exporters.shared.machine import Reading, readings

_NAMES: Final[Mapping[str, str]] = {
    "cpu": "cpu_percent",
    "cpu_core": "cpu_percent",
    "process_cpu": "cpu",
    "process_memory_percent": "p_memory_percent",
    "process_memory_bytes": "p_memory_bytes",
    "process_threads": "p_threads",
    "gpu_utilization": "gpu",
    "gpu_temperature_celsius": "gpu_temp",
}
"""By quantity, where AIM's name is another."""


class Measurement(NamedTuple):
    """One value of one of AIM's system metrics."""

    name: str
    context: Mapping[str, Any]
    value: float
    time_unix_nano: int


def measurements(points: Sequence[SystemPoint]) -> list[Measurement]:
    """The points as values of AIM's system metrics."""
    return [
        Measurement(
            SYSTEM + _NAMES.get(one.quantity, one.quantity), _context(one), one.value, one.time_unix_nano
        )
        for one in readings(points)
    ]


def _context(reading: Reading) -> dict[str, Any]:
    if not reading.part:
        return {}
    if not reading.is_known:
        return {"attributes": reading.part}
    key = "gpu" if reading.quantity.startswith("gpu_") else "cpu"
    return {key: int(reading.part) if reading.part.isdecimal() else reading.part}
