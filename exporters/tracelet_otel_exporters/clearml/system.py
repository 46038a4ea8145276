"""Measurements of the machine, in the charts and by the names of ClearML's own monitor.

The names are those of ``clearml/utilities/resource_monitor.py``; its units are percent, GB (of 1024) and MB a
second. The horizontal axis is the seconds since the task was created.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tracelet_otel.otlp.records import SystemPoint
from tracelet_otel_exporters.clearml.names import Name
from tracelet_otel_exporters.clearml.runs import ClearMLRun
from tracelet_otel_exporters.shared.machine import GROWING, readings_by_host

_GB: Final = 1 / 1024.0**3
_MB: Final = 1 / 1024.0**2
_LARGEST: Final = 3e38
"""ClearML's server takes nothing beyond 32-bit floats."""
_NAMES: Final[Mapping[str, tuple[str, float]]] = {
    "cpu": ("cpu_usage", 1.0),
    "memory_percent": ("memory_used_percent", 1.0),
    "memory_used_bytes": ("memory_used_gb", _GB),
    "memory_free_bytes": ("memory_free_gb", _GB),
    "disk_percent": ("disk_free_percent", -1.0),
    "disk_read_bytes": ("io_read_mbs", _MB),
    "disk_write_bytes": ("io_write_mbs", _MB),
    "network_received_bytes": ("network_rx_mbs", _MB),
    "network_sent_bytes": ("network_tx_mbs", _MB),
    "process_cpu": ("process_cpu_usage", 1.0),
    "process_memory_bytes": ("process_memory_used_gb", _GB),
    "gpu_utilization": ("gpu_{}_utilization", 1.0),
    "gpu_memory_percent": ("gpu_{}_mem_usage", 1.0),
    "gpu_memory_used_bytes": ("gpu_{}_mem_used_gb", _GB),
    "gpu_memory_total_bytes": ("gpu_{}_mem_total_gb", _GB),
    "gpu_temperature_celsius": ("gpu_{}_temperature", 1.0),
    "gpu_power_watts": ("gpu_{}_power_draw", 1.0),
}
"""By quantity: ClearML's name, ``{}`` for the GPU, and its unit in ours."""


def measurements(
    run: ClearMLRun, points: Sequence[SystemPoint]
) -> Iterator[tuple[Name, tuple[int, float, int]]]:
    """What ClearML shows of these points: chart; iteration, value and time in ms.

    What it has no chart for is left out. Several points of one chart and second are averaged. What only grows
    becomes a rate, so its first value shows nothing.
    """
    gathered: defaultdict[tuple[Name, int], list[tuple[float, int]]] = defaultdict(list)
    for host, reading in readings_by_host(points):
        if reading.quantity not in _NAMES:
            continue
        variant, unit = _NAMES[reading.quantity]
        value = reading.value
        if reading.quantity in GROWING:
            seconds = reading.time_unix_nano / 1e9
            before, since = run.last_readings.get((host, reading.quantity), (value, seconds))
            run.last_readings[host, reading.quantity] = value, seconds
            if value < before or seconds <= since:
                continue
            value = (value - before) / (seconds - since)
        elif reading.quantity == "disk_percent":
            value -= 100.0
        value *= unit
        if abs(value) < _LARGEST:
            chart = ":monitor:gpu" if reading.quantity.startswith("gpu_") else ":monitor:machine"
            time_ms = reading.time_unix_nano // 1_000_000
            place = Name(chart, variant.format(reading.part)), int(time_ms / 1000 - run.created)
            gathered[place].append((value, time_ms))
    for (name, iteration), values in gathered.items():
        mean = sum(value for value, _ in values) / len(values)
        yield name, (iteration, mean, values[-1][1])
