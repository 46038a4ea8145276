"""Measurements of the machine, in the charts and by the names of ClearML's own monitor.

The names are those of ``clearml/utilities/resource_monitor.py``; its units are percent, GB (of 1024) and MB a
second. The horizontal axis is the seconds since the task was created.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tracelet_otel.otlp.records import SystemPoint
from tracelet_otel_exporters.clearml.runs import OpenRun

MACHINE: Final = ":monitor:machine"
GPU: Final = ":monitor:gpu"

_GB: Final = 1024.0**3
_MB: Final = 1024.0**2
_GROWING: Final[Mapping[tuple[str, str], str]] = {
    ("system.network.io", "transmit"): "network_tx_mbs",
    ("system.network.io", "receive"): "network_rx_mbs",
    ("system.disk.io", "read"): "io_read_mbs",
    ("system.disk.io", "write"): "io_write_mbs",
}
_USED: Final[Mapping[tuple[str, str], tuple[str, float]]] = {
    ("system.memory.usage", "used"): ("memory_used_gb", 1 / _GB),
    ("system.memory.usage", "available"): ("memory_free_gb", 1 / _GB),
    ("system.memory.usage", "free"): ("memory_free_gb", 1 / _GB),
    ("system.memory.utilization", "used"): ("memory_used_percent", 100.0),
    ("process.cpu.utilization", ""): ("process_cpu_usage", 100.0),
    ("process.memory.usage", ""): ("process_memory_used_gb", 1 / _GB),
}
_GPU: Final[Mapping[str, tuple[str, float]]] = {
    "hw.gpu.utilization": ("utilization", 100.0),
    "hw.gpu.memory.utilization": ("mem_usage", 100.0),
    "hw.gpu.memory.usage": ("mem_used_gb", 1 / _GB),
    "hw.gpu.memory.limit": ("mem_total_gb", 1 / _GB),
    "hw.temperature": ("temperature", 1.0),
    "hw.gpu.temperature": ("temperature", 1.0),
    "hw.power": ("power_draw", 1.0),
    "hw.gpu.power": ("power_draw", 1.0),
}


class Reading(NamedTuple):
    """One value of one chart."""

    metric: str
    variant: str
    iteration: int
    value: float
    time_ms: int


def readings(run: OpenRun, points: Sequence[SystemPoint]) -> Iterator[Reading]:
    """What ClearML shows of these points; what it has no chart for is left out.

    Several of one chart and second are averaged (the CPUs), and what only grows becomes a rate, so its first
    value shows nothing.
    """
    gathered: defaultdict[tuple[str, str, int], list[tuple[float, int]]] = defaultdict(list)
    grown: defaultdict[tuple[str, int], float] = defaultdict(float)
    for point in points:
        time_ms = point.time_unix_nano // 1_000_000
        direction = str(
            point.attributes.get("direction") or point.attributes.get("network.io.direction") or ""
        )
        direction = direction or str(point.attributes.get("disk.io.direction") or "")
        if rate := _GROWING.get((point.name, direction)):
            grown[rate, time_ms] += point.value  # of all devices
        elif place := _place(point):
            metric, variant, value = place
            if value == value and abs(value) < 3e38:
                gathered[metric, variant, _iteration(run, time_ms)].append((value, time_ms))
    for (rate, time_ms), total in sorted(grown.items(), key=lambda item: item[0][1]):
        now = time_ms / 1000
        before = run.last.get(rate)
        run.last[rate] = (total, now)
        if before is not None and now > before[1] and total >= before[0]:
            speed = (total - before[0]) / (now - before[1]) / _MB
            gathered[MACHINE, rate, _iteration(run, time_ms)].append((speed, time_ms))
    for (metric, variant, iteration), values in gathered.items():
        mean = sum(value for value, _ in values) / len(values)
        yield Reading(metric, variant, iteration, mean, values[-1][1])


def _place(point: SystemPoint) -> tuple[str, str, float] | None:
    """Chart, series and value in ClearML's unit."""
    name, attributes, value, _ = point
    state = str(attributes.get("state") or attributes.get("system.memory.state") or "")
    if name in ("system.cpu.utilization", "system.cpu.usage"):
        state = state or str(attributes.get("cpu.mode") or "")
        # "idle" tells what all the others add up to.
        if state == "idle":
            return MACHINE, "cpu_usage", 100.0 * (1.0 - value)
        return None if state else (MACHINE, "cpu_usage", 100.0 * value)
    if name in _GPU and (name != "hw.temperature" or attributes.get("hw.type", "gpu") == "gpu"):
        variant, factor = _GPU[name]
        return GPU, f"gpu_{attributes.get('hw.id', 0)}_{variant}", value * factor
    if name == "system.filesystem.utilization" and state in ("", "used"):
        return MACHINE, "disk_free_percent", 100.0 * (1.0 - value)
    if found := _USED.get((name, state)) or _USED.get((name, "")):
        variant, factor = found
        return MACHINE, variant, value * factor
    return None


def _iteration(run: OpenRun, time_ms: int) -> int:
    return int(time_ms / 1000 - run.created)
