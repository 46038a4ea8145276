"""Points of the script, and measurements of the machine, as messages to ``wandb-core``.

Measurements are in the names and units of W&B's own monitor, for the run's system panel. Source of the names:
``core/internal/monitor/system.go`` and ``gpu_nvidia.go`` in W&B's sources; its MB are of 2^20 bytes, and what
grows is counted from the monitor's start. ``/l:<label>`` at the end is how W&B tells several machines of one
run apart. What its monitor does not measure keeps OpenTelemetry's name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tracelet_otel.otlp.records import Point, SystemPoint
from tracelet_otel.semconv import nonfinite_name
from tracelet_otel_exporters.shared.machine import GROWING, readings_by_host
from tracelet_otel_exporters.wandb import private
from tracelet_otel_exporters.wandb.names import STEP

JOIN_NS: Final = 100_000_000
"""Points of one step whose times are this close share a row, with the time of the first."""
_MIB: Final = 1 / 2**20
_NAMES: Final[Mapping[str, tuple[str, float]]] = {
    "cpu": ("cpu", 1.0),
    "cpu_core": ("cpu.{}.cpu_percent", 1.0),
    "process_cpu": ("cpu", 1.0),
    "process_memory_bytes": ("proc.memory.rssMB", _MIB),
    "process_memory_percent": ("proc.memory.percent", 1.0),
    "process_threads": ("proc.cpu.threads", 1.0),
    "memory_percent": ("memory_percent", 1.0),
    "memory_used_bytes": ("memory_usedMB", _MIB),
    "memory_free_bytes": ("proc.memory.availableMB", _MIB),
    "disk_percent": ("disk./.usagePercent", 1.0),
    "disk_used_bytes": ("disk./.usageGB", 1 / 2**30),
    "disk_free_bytes": ("disk./.freeGB", 1 / 2**30),
    "disk_read_bytes": ("disk.in", _MIB),
    "disk_write_bytes": ("disk.out", _MIB),
    "network_received_bytes": ("network.recv", 1.0),
    "network_sent_bytes": ("network.sent", 1.0),
    "gpu_utilization": ("gpu.{}.gpu", 1.0),
    "gpu_memory_percent": ("gpu.{}.memoryAllocated", 1.0),
    "gpu_memory_used_bytes": ("gpu.{}.memoryAllocatedBytes", 1.0),
    "gpu_memory_total_bytes": ("gpu.{}.memoryTotalBytes", 1.0),
    "gpu_temperature_celsius": ("gpu.{}.temp", 1.0),
    "gpu_power_watts": ("gpu.{}.powerWatts", 1.0),
    "gpu_power_percent": ("gpu.{}.powerPercent", 1.0),
    "gpu_energy_joules": ("gpu.{}.energyJoules", 1.0),
}
"""By quantity: W&B's key, ``{}`` for the index, and its unit in ours."""


@dataclass(slots=True)
class HistoryRow:
    """One row of the history: some metrics of one step at one time."""

    step: int
    time: int
    values: dict[str, float] = field(default_factory=dict[str, float])


def rows(series: Iterable[tuple[str, Sequence[Point]]]) -> list[HistoryRow]:
    """Joins series, by their keys, to rows: by time, and a key at most once a row."""
    by_step: defaultdict[int, list[HistoryRow]] = defaultdict(list)
    for key, points in series:
        taken: dict[int, int] = {}  # by step: the first of its rows that this series may still go into
        for step, value, time in points:
            same_step = by_step[step]
            place = taken.get(step, 0)
            while place < len(same_step) and (
                same_step[place].time < time - JOIN_NS or key in same_step[place].values
            ):
                place += 1
            if place == len(same_step) or same_step[place].time > time + JOIN_NS:
                same_step.insert(place, HistoryRow(step, time))
            same_step[place].values[key] = value
            taken[step] = place + 1
    return sorted((row for same_step in by_step.values() for row in same_step), key=lambda row: row.time)


def history(run_id: str, rows: Iterable[HistoryRow]) -> Iterator[Any]:
    """What ``Run.log`` would send for each row; never with a step of W&B's own, below which it drops rows.

    It is one message, filled again for each row, which costs half as much.
    """
    message = private.request(run_id)
    items = message.record_publish.request.partial_history.item
    keys: list[str] = []
    for row in rows:
        if keys != (found := [*row.values, STEP, "_timestamp"]):
            keys = found
            del items[:]
            for key in keys:
                items.add(key=key)
        for item, value in zip(items, (*row.values.values(), row.step, row.time / 1e9), strict=True):
            item.value_json = nonfinite_name(value) or repr(value)
        yield message


def measurements(run_id: str, points: Sequence[SystemPoint], first: dict[str, float]) -> Iterator[Any]:
    """What W&B's own monitor would send, with the measurements' times.

    ``first`` has the first value of each key that grows, and is added to.
    """
    rows: defaultdict[int, dict[str, float]] = defaultdict(dict)
    # W&B's "cpu" is the process's share; the machine's stands in where that is not measured.
    found = sorted(readings_by_host(points), key=lambda pair: pair[1].quantity == "process_cpu")
    for host, reading in found:
        name, unit = _NAMES.get(reading.quantity, ("", 1.0))
        key = name.format(reading.part) or ".".join(
            filter(None, (reading.quantity.removeprefix("system."), reading.part))
        )
        if host:
            key += f"/l:{host}"
        value = reading.value
        if reading.quantity in GROWING:
            value = max(0.0, value - first.setdefault(key, value))
        rows[reading.time_unix_nano][key] = value * unit
    for time, values in sorted(rows.items()):
        message = private.request(run_id)
        stats = message.record_publish.stats
        stats.timestamp.FromNanoseconds(time)
        for key, value in values.items():
            stats.item.add(key=key, value_json=json.dumps(value))
        yield message
