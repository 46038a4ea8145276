from __future__ import annotations

import math
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tracelet_otel.otlp.records import SystemPoint
from tracelet_otel_exporters.shared.machine import readings


def point(name: str, value: float, time_unix_nano: int = 1, **attributes: Any) -> SystemPoint:
    return SystemPoint(
        name, {key.replace("__", "."): item for key, item in attributes.items()}, value, time_unix_nano
    )


def quantities(*points: SystemPoint) -> dict[str, float]:
    return {f"{r.quantity}[{r.part}]" if r.part else r.quantity: r.value for r in readings(points)}


def test_cpu_is_the_mean_over_cores_of_what_is_not_idle() -> None:
    points = [
        point("system.cpu.utilization", share, cpu=cpu, state=state)
        for cpu, shares in {
            1: {"idle": 0.5, "iowait": 0.25, "user": 0.25},
            2: {"idle": 1.0, "user": 0.0},
        }.items()
        for state, share in shares.items()
    ]
    assert quantities(*points) == {"cpu": 12.5, "cpu_core[0]": 25.0, "cpu_core[1]": 0.0}


def test_cpus_that_are_counted_from_0() -> None:
    points = [point("system.cpu.utilization", 1.0, cpu=cpu, state="idle") for cpu in (0, 1)]
    assert quantities(*points) == {"cpu": 0.0, "cpu_core[0]": 0.0, "cpu_core[1]": 0.0}


def test_cpu_by_the_conventions_of_today() -> None:
    points = [
        point("system.cpu.utilization", share, cpu__logical_number=3, cpu__mode=mode)
        for mode, share in {"user": 0.5, "system": 0.25}.items()
    ]
    assert quantities(*points) == {"cpu": 75.0, "cpu_core[3]": 75.0}


def test_a_first_measurement_over_no_time_says_nothing() -> None:
    points = [point("system.cpu.utilization", 0.0, cpu=1, state=state) for state in ("idle", "user")]
    assert quantities(*points) == {}


def test_memory_and_disk() -> None:
    assert quantities(
        point("system.memory.usage", 8.0, state="used"),
        point("system.memory.usage", 3.0, system__memory__state="free"),
        point("system.memory.usage", 2.0, state="cached"),
        point("system.memory.utilization", 0.5, state="used"),
        point("system.filesystem.utilization", 0.25, system__filesystem__mountpoint="/"),
        point("system.filesystem.usage", 10.0, system__filesystem__state="used"),
        point("system.filesystem.usage", 30.0, system__filesystem__state="free"),
    ) == {
        "memory_used_bytes": 8.0,
        "memory_free_bytes": 3.0,
        "system.memory.usage[state=cached]": 2.0,
        "memory_percent": 50.0,
        "disk_percent": 25.0,
        "disk_used_bytes": 10.0,
        "disk_free_bytes": 30.0,
    }


def test_devices_are_added_up_once() -> None:
    disks = {"sda": 10.0, "sda1": 7.0, "sda2": 3.0, "nvme0n1": 5.0, "nvme0n1p2": 5.0, "md0": 1.0}
    networks = {"eth0": 10.0, "eth1": 5.0, "lo": 1000.0}
    assert quantities(
        *(point("system.disk.io", value, device=name, direction="read") for name, value in disks.items()),
        *(
            point(
                "system.network.io", value, network__interface__name=name, network__io__direction="transmit"
            )
            for name, value in networks.items()
        ),
    ) == {"disk_read_bytes": 16.0, "network_sent_bytes": 15.0}


def test_gpus_by_index() -> None:
    whole: Any = {"hw__id": "0", "hw__type": "gpu"}
    assert quantities(
        point("hw.gpu.utilization", 0.5, hw__id="0", hw__gpu__task="general"),
        point("hw.gpu.utilization", 0.1, hw__id="0", hw__gpu__task="encoder"),
        point("hw.gpu.memory.usage", 5.0, hw__id="0_mig_1"),
        point("hw.temperature", 60.0, **whole),
        point("hw.temperature", 90.0, hw__id="0", hw__type="gpu", hw__sensor_location="hotspot"),
        point("hw.temperature", 40.0, hw__id="cpu0", hw__type="cpu"),
        point("hw.power", 100.0, **whole),
        point("hw.gpu.power.limit", 400.0, **whole),
        point("hw.power", 50.0, hw__id="1", hw__type="gpu"),
    ) == {
        "gpu_utilization[0]": 50.0,
        "hw.gpu.utilization[hw.gpu.task=encoder,hw.id=0]": 0.1,
        "gpu_memory_used_bytes[0_mig_1]": 5.0,
        "gpu_temperature_celsius[0]": 60.0,
        "hw.temperature[hw.id=0,hw.sensor_location=hotspot,hw.type=gpu]": 90.0,
        "hw.temperature[hw.id=cpu0,hw.type=cpu]": 40.0,
        "gpu_power_watts[0]": 100.0,
        "gpu_power_limit_watts[0]": 400.0,
        "gpu_power_watts[1]": 50.0,
        "gpu_power_percent[0]": 25.0,
    }


def test_collections_are_told_apart() -> None:
    points = [point("system.network.io", 5.0, time, device="eth0", direction="receive") for time in (20, 10)]
    assert [(r.value, r.time_unix_nano) for r in readings(points)] == [(5.0, 10), (5.0, 20)]


def test_values_that_are_none() -> None:
    assert quantities(point("hw.power", math.nan, hw__id="0", hw__type="gpu")) == {}


NAMES = st.sampled_from(
    [
        "system.cpu.utilization",
        "system.memory.usage",
        "system.disk.io",
        "hw.gpu.utilization",
        "process.x",
        "hw.power",
    ]
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["cpu", "state", "device", "direction", "hw.id", "hw.type", "other"]),
    st.one_of(st.integers(0, 3), st.sampled_from(["idle", "used", "read", "gpu", "lo"])),
)


@given(st.lists(st.builds(SystemPoint, NAMES, ATTRIBUTES, st.floats(), st.integers(0, 2))))
@example([SystemPoint("hw.gpu.utilization", {"hw.id": "0"}, 1e307, 0)])
@example([SystemPoint("system.disk.io", {"device": d, "direction": "read"}, 1e308, 0) for d in "ab"])
def test_any_measurement_is_taken(points: list[SystemPoint]) -> None:
    found = readings(points)
    assert all(math.isfinite(reading.value) for reading in found)
    for one in points:
        if one.name == "process.x" and math.isfinite(one.value):
            part = ",".join(f"{name}={one.attributes[name]}" for name in sorted(one.attributes))
            assert ("process.x", part, one.value, one.time_unix_nano) in found
