"""Measurements of the machine in the names and units of W&B's own monitor, for the run's system panel.

Source of the names: ``core/internal/monitor/system.go`` and ``gpu_nvidia.go`` in W&B's sources; its MB are of
2^20 bytes, and what grows is counted from the monitor's start. ``/l:<label>`` at the end is how W&B tells
several machines of one run apart. What its monitor does not measure keeps OpenTelemetry's name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tracelet_otel.otlp.records import SystemPoint
from tracelet_otel_exporters.shared.machine import GROWING, readings_by_host
from tracelet_otel_exporters.wandb import private

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


def messages(run_id: str, points: Sequence[SystemPoint], first: dict[str, float]) -> Iterator[Any]:
    """The messages by which W&B's own monitor would hand these measurements on, with their times.

    Args:
        run_id: W&B's.
        points: the measurements.
        first: the first value of each key that grows; is added to.
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
