"""Measurements of the machine as MLflow's own system metrics, which its "System metrics" tab shows.

Source of names and units: ``mlflow/system_metrics/metrics/*.py``; megabytes are of 1,000,000 bytes. What
MLflow's monitor does not measure gets a name of the same form; what has no quantity keeps OpenTelemetry's.
Measurements with the attribute ``host.name`` get it into their name, as MLflow does for ``node_id``.

The step is the whole number of seconds since the run was created, which grows when the run is resumed and
does not collide when several processes write it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tracelet_otel.otlp.records import SystemPoint
from tracelet_otel_exporters.mlflow import names
from tracelet_otel_exporters.mlflow.points import SYSTEM, Sample
from tracelet_otel_exporters.mlflow.runs import MLflowRun
from tracelet_otel_exporters.shared.machine import GROWING, Reading, readings_by_host

_MEGA: Final = 1e-6

_NAMES: Final[Mapping[str, tuple[str, float]]] = {
    "cpu": ("cpu_utilization_percentage", 1.0),
    "cpu_core": ("cpu_{}_utilization_percentage", 1.0),
    "memory_percent": ("system_memory_usage_percentage", 1.0),
    "memory_used_bytes": ("system_memory_usage_megabytes", _MEGA),
    "memory_free_bytes": ("system_memory_free_megabytes", _MEGA),
    "disk_percent": ("disk_usage_percentage", 1.0),
    "disk_used_bytes": ("disk_usage_megabytes", _MEGA),
    "disk_free_bytes": ("disk_available_megabytes", _MEGA),
    "disk_read_bytes": ("disk_read_megabytes", _MEGA),
    "disk_write_bytes": ("disk_write_megabytes", _MEGA),
    "network_received_bytes": ("network_receive_megabytes", _MEGA),
    "network_sent_bytes": ("network_transmit_megabytes", _MEGA),
    "process_cpu": ("process_cpu_utilization_percentage", 1.0),
    "process_memory_bytes": ("process_memory_usage_megabytes", _MEGA),
    "process_memory_percent": ("process_memory_usage_percentage", 1.0),
    "process_threads": ("process_threads", 1.0),
    "gpu_utilization": ("gpu_{}_utilization_percentage", 1.0),
    "gpu_memory_percent": ("gpu_{}_memory_usage_percentage", 1.0),
    "gpu_memory_used_bytes": ("gpu_{}_memory_usage_megabytes", _MEGA),
    "gpu_memory_total_bytes": ("gpu_{}_memory_total_megabytes", _MEGA),
    "gpu_temperature_celsius": ("gpu_{}_temperature_celsius", 1.0),
    "gpu_power_watts": ("gpu_{}_power_usage_watts", 1.0),
    "gpu_power_limit_watts": ("gpu_{}_power_limit_watts", 1.0),
    "gpu_power_percent": ("gpu_{}_power_usage_percentage", 1.0),
    "gpu_energy_joules": ("gpu_{}_energy_joules", 1.0),
}
"""By quantity: MLflow's name, ``{}`` for the index, and its unit in ours."""


def samples(run: MLflowRun, points: Sequence[SystemPoint]) -> list[Sample]:
    """The points as MLflow's system metrics."""
    return [
        _sample(run, f"{SYSTEM}{host}/" if host else SYSTEM, reading)
        for host, reading in readings_by_host(points)
    ]


def _sample(run: MLflowRun, prefix: str, reading: Reading) -> Sample:
    value = reading.value
    if (known := _NAMES.get(reading.quantity)) is not None:
        tag = prefix + known[0].format(reading.part)
        if reading.quantity in GROWING:  # MLflow counts from its monitor's start, not from the machine's
            value = max(0.0, value - run.first_readings.setdefault(tag, value))
        value *= known[1]
    else:
        # "=" and "," are characters that MLflow refuses
        part = reading.part.replace("=", ":").replace(",", " ")
        tag = prefix + reading.quantity + (f"/{part}" if part else "")
    key = names.encode(tag)
    run.note("metrics", key, tag)
    time_ms = max(0, reading.time_unix_nano // 1_000_000)
    return Sample(key, value, time_ms, max(0, (time_ms - run.start_time_ms) // 1000), tag)
