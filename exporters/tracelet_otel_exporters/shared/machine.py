"""Measurements of the machine, from OpenTelemetry's conventions to a short list of quantities: pure.

Every tracker has its own names for the same few things; this is the half of that work that all share.

=======================  =======  ==========================================================================
quantity                 unit     what
=======================  =======  ==========================================================================
cpu                      percent  of all cores; time that waits for a disk is idle, as psutil has it
cpu_core                 percent  of one core; part: its number, from 0
memory_percent           percent  of the machine's memory that is used
memory_used_bytes        bytes
memory_free_bytes        bytes    free, without caches
disk_percent             percent  of the file system that is used
disk_used_bytes          bytes
disk_free_bytes          bytes
disk_read_bytes          bytes    since boot, of all disks
disk_write_bytes         bytes    since boot, of all disks
network_received_bytes   bytes    since boot, of all interfaces but the loopback
network_sent_bytes       bytes    the same
process_cpu              percent  of all cores
process_memory_bytes     bytes    resident
process_memory_percent   percent  of the machine's memory
process_threads          1
gpu_utilization          percent  of the time in which a kernel ran; part: the GPU, as for those below
gpu_memory_percent       percent
gpu_memory_used_bytes    bytes
gpu_memory_total_bytes   bytes
gpu_temperature_celsius  Celsius
gpu_power_watts          watts
gpu_power_limit_watts    watts    the limit in force
gpu_power_percent        percent  of that limit
gpu_energy_joules        joules   since the driver was loaded
=======================  =======  ==========================================================================

Everything else is a reading too: its quantity is OpenTelemetry's name, its value in OpenTelemetry's unit,
and its part tells its attributes, ``cpu=1,state=user``; all quantities above are without a dot, and all
these names have one.

Both of what ``opentelemetry-instrumentation-system-metrics`` 0.66b2 writes (``cpu`` from 1, ``state``,
``direction``, ``device``) and what the conventions say now (``cpu.logical_number`` from 0, ``cpu.mode``,
``system.memory.state``, ``network.io.direction``, ``disk.io.direction``, ``system.device``,
``network.interface.name``) is understood.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tracelet_otel.otlp.records import SystemPoint


class Reading(NamedTuple):
    """One value of one quantity."""

    quantity: str
    part: str
    """Which core or GPU, or the attributes of what has no quantity above; else empty."""
    value: float
    """Finite."""
    time_unix_nano: int

    @property
    def is_known(self) -> bool:
        """Whether the quantity is in the table above."""
        return "." not in self.quantity


GROWING: Final = frozenset(
    {
        *("disk_read_bytes", "disk_write_bytes", "network_received_bytes", "network_sent_bytes"),
        "gpu_energy_joules",
    }
)
"""Quantities that only grow, since the machine or the driver was started."""
_HOST: Final = "host.name"
_SIMPLE: Final[Mapping[tuple[str, str], tuple[str, float]]] = {
    ("system.memory.utilization", "used"): ("memory_percent", 100.0),
    ("system.memory.usage", "used"): ("memory_used_bytes", 1.0),
    ("system.memory.usage", "free"): ("memory_free_bytes", 1.0),
    ("system.filesystem.utilization", ""): ("disk_percent", 100.0),
    ("system.filesystem.utilization", "used"): ("disk_percent", 100.0),
    ("system.filesystem.usage", "used"): ("disk_used_bytes", 1.0),
    ("system.filesystem.usage", "free"): ("disk_free_bytes", 1.0),
    ("process.cpu.utilization", ""): ("process_cpu", 100.0),
    ("process.memory.usage", ""): ("process_memory_bytes", 1.0),
    ("process.memory.utilization", ""): ("process_memory_percent", 100.0),
    ("process.thread.count", ""): ("process_threads", 1.0),
}
"""By name and state: quantity, and its unit in the convention's."""
_SUMMED: Final[Mapping[tuple[str, str], str]] = {
    ("system.disk.io", "read"): "disk_read_bytes",
    ("system.disk.io", "write"): "disk_write_bytes",
    ("system.network.io", "receive"): "network_received_bytes",
    ("system.network.io", "transmit"): "network_sent_bytes",
}
_GPU: Final[Mapping[str, tuple[str, float]]] = {
    "hw.gpu.utilization": ("gpu_utilization", 100.0),
    "hw.gpu.memory.utilization": ("gpu_memory_percent", 100.0),
    "hw.gpu.memory.usage": ("gpu_memory_used_bytes", 1.0),
    "hw.gpu.memory.limit": ("gpu_memory_total_bytes", 1.0),
    "hw.temperature": ("gpu_temperature_celsius", 1.0),
    "hw.power": ("gpu_power_watts", 1.0),
    "hw.energy": ("gpu_energy_joules", 1.0),
    "hw.gpu.power.limit": ("gpu_power_limit_watts", 1.0),
}
_STATES: Final = (
    *("state", "cpu.mode", "system.memory.state", "system.filesystem.state"),
    *("direction", "disk.io.direction", "network.io.direction"),
)
_CORES: Final = ("cpu.logical_number", "cpu")
_DEVICES: Final = ("device", "system.device", "network.interface.name")
_IDLE: Final = {"idle", "iowait"}
_LOOPBACK: Final = re.compile(r"lo\d*\Z|Loopback", re.IGNORECASE)
_PARTITION: Final = re.compile(r"p?\d+\Z")


def readings(points: Sequence[SystemPoint]) -> list[Reading]:
    """The points as readings, by their time; what is not finite, or not in a reading's unit, is left out."""
    by_time: defaultdict[int, list[SystemPoint]] = defaultdict(list)
    for point in points:
        if math.isfinite(point.value):
            by_time[point.time_unix_nano].append(point)
    found = [reading for time in sorted(by_time) for reading in _collected(by_time[time], time)]
    return [reading for reading in found if math.isfinite(reading.value)]


def readings_by_host(points: Sequence[SystemPoint]) -> Iterator[tuple[str, Reading]]:
    """The readings with the attribute ``host.name`` of their points; empty for points without it."""
    by_host: defaultdict[str, list[SystemPoint]] = defaultdict(list)
    for point in points:
        attributes = {name: value for name, value in point.attributes.items() if name != _HOST}
        by_host[str(point.attributes.get(_HOST, ""))].append(point._replace(attributes=attributes))
    for host, members in by_host.items():
        for reading in readings(members):
            yield host, reading


def _collected(points: Sequence[SystemPoint], time: int) -> list[Reading]:
    """The readings of one collection."""
    found: list[Reading] = []
    cores: defaultdict[str, dict[str, float]] = defaultdict(dict)
    first = 0
    devices: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for point in points:
        name, attributes, value, _ = point
        state = _first(attributes, _STATES)
        gpu = _gpu(point)
        if name == "system.cpu.utilization" and state and (core := _first(attributes, _CORES)):
            cores[core][state] = value
            first = 1 if "cpu" in attributes else 0  # the instrumentation counts from 1
        elif quantity := _SUMMED.get((name, state)):
            devices[quantity][_first(attributes, _DEVICES)] = value
        elif (simple := _SIMPLE.get((name, state))) is not None:
            found.append(Reading(simple[0], "", value * simple[1], time))
        elif gpu is not None and name in _GPU:
            found.append(Reading(_GPU[name][0], gpu, value * _GPU[name][1], time))
        else:
            found.append(Reading(name, _described(attributes), value, time))
    found += _cpu(cores, time, 0 if "0" in cores else first)
    for quantity, by_device in devices.items():
        found.append(Reading(quantity, "", _total(by_device), time))
    return found + _power_shares(found, time)


def _cpu(cores: Mapping[str, Mapping[str, float]], time: int, first: int) -> list[Reading]:
    busy: dict[str, float] = {}
    for core, states in cores.items():
        if not any(states.values()):
            continue  # psutil's first answer, before any time has passed
        idle = [value for state, value in states.items() if state in _IDLE]
        share = 1.0 - sum(idle) if "idle" in states else sum(states.values()) - sum(idle)
        busy[core] = 100.0 * min(max(share, 0.0), 1.0)
    if not busy:
        return []
    mean = Reading("cpu", "", sum(busy.values()) / len(busy), time)
    return [mean, *(Reading("cpu_core", _numbered(core, first), value, time) for core, value in busy.items())]


def _numbered(core: str, first: int) -> str:
    """The core's number from 0; a name that is not a number stays as it is."""
    return str(int(core) - first) if core.isdecimal() else core


def _total(by_device: Mapping[str, float]) -> float:
    """The sum over devices, where a partition is part of its disk, and the loopback does not count."""
    return sum(  # not fsum(), which raises where this is infinite
        value
        for device, value in by_device.items()
        if not _LOOPBACK.match(device) and not _is_partition(device, by_device)
    )


def _is_partition(device: str, others: Mapping[str, float]) -> bool:
    stem = _PARTITION.sub("", device)
    return stem != device and stem in others


def _gpu(point: SystemPoint) -> str | None:
    """Which GPU this is of, or None for what is of no GPU as a whole."""
    attributes = point.attributes
    kind = "gpu" if point.name.startswith("hw.gpu.") else attributes.get("hw.type")
    if kind != "gpu" or "hw.id" not in attributes:
        return None
    if attributes.get("hw.gpu.task", "general") != "general" or "hw.sensor_location" in attributes:
        return None
    return str(attributes["hw.id"])


def _power_shares(found: Sequence[Reading], time: int) -> list[Reading]:
    limits = {reading.part: reading.value for reading in found if reading.quantity == "gpu_power_limit_watts"}
    return [
        Reading("gpu_power_percent", reading.part, 100.0 * reading.value / limit, time)
        for reading in found
        if reading.quantity == "gpu_power_watts" and (limit := limits.get(reading.part, 0.0)) > 0.0
    ]


def _first(attributes: Mapping[str, str | int | float | bool], names: Sequence[str]) -> str:
    return next((str(attributes[name]) for name in names if name in attributes), "")


def _described(attributes: Mapping[str, str | int | float | bool]) -> str:
    return ",".join(f"{name}={attributes[name]}" for name in sorted(attributes))
