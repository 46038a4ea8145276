"""The GPUs' instruments, through the real pynvml, above a stand-in for the driver's table of functions."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.support import nvml as stand_in
from tracelet_otel.instrumentation.machine import gpu, nvml
from tracelet_otel.instrumentation.machine.gpu import GpuInstrumentor, observe, visible_gpus
from tracelet_otel.otlp.records import SystemPoint
from tracelet_otel_exporters.shared.machine import readings

MIB = stand_in.MIB


class Meters:
    """A meter provider and what its reader collects."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def collect(self) -> dict[str, list[tuple[dict[str, Any], float]]]:
        data = self.reader.get_metrics_data()
        found: dict[str, list[tuple[dict[str, Any], float]]] = {}
        for resource in data.resource_metrics if data else ():
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                points: Any = metric.data.data_points
                found[metric.name] = [(dict(point.attributes), point.value) for point in points]
        return found

    def values(self, name: str) -> dict[str, float]:
        """By ``hw.id``."""
        return {str(attributes["hw.id"]): value for attributes, value in self.collect().get(name, ())}


@pytest.fixture
def meters() -> Iterator[Meters]:
    made = Meters()
    yield made
    made.provider.shutdown()


def test_several_cards(meters: Meters) -> None:
    with stand_in.driver(stand_in.a100(), stand_in.rtx4090(), stand_in.l4()) as driver:
        observe(meters.provider)
        assert driver.initialized == 0  # the driver may be slow: not before the first collection
        found = meters.collect()
        meters.collect()
        assert driver.initialized == 1
        assert driver.calls.count("nvmlDeviceGetHandleByIndex_v2") == 3
    by_id = {name: {point[0]["hw.id"]: point[1] for point in points} for name, points in found.items()}
    assert by_id["hw.gpu.utilization"] == {"0": 0.97, "1": 0.5, "2": 0.0}
    assert by_id["hw.gpu.memory.usage"] == {"0": 1024 * MIB, "1": 12282 * MIB, "2": 0}
    assert by_id["hw.gpu.memory.limit"] == {"0": 40960 * MIB, "1": 24564 * MIB, "2": 23034 * MIB}
    assert by_id["hw.gpu.memory.utilization"] == {"0": 0.025, "1": 0.5, "2": 0.0}
    assert by_id["hw.temperature"] == {"0": 61, "1": 54, "2": 31}
    assert by_id["hw.power"] == {"0": 378.123, "1": 225.0, "2": 16.5}
    assert by_id["hw.gpu.power.limit"] == {"0": 400.0, "1": 450.0, "2": 72.0}
    assert by_id["hw.energy"] == {"0": 123_456.789, "1": 2**40 / 1000, "2": 1.0}
    errors = {(a["hw.id"], a["error.type"]): value for a, value in found["hw.errors"]}
    assert errors == {
        ("0", "corrected"): 4,
        ("0", "uncorrected"): 1,
        ("2", "corrected"): 0,
        ("2", "uncorrected"): 0,
    }
    named = {"hw.id": "1", "hw.name": "NVIDIA GeForce RTX 4090", "hw.vendor": "NVIDIA"}
    assert found["hw.gpu.utilization"][1][0] == {**named, "hw.gpu.task": "general"}
    assert found["hw.power"][1][0] == {**named, "hw.type": "gpu"}


def test_units_and_kinds_are_the_conventions(meters: Meters) -> None:
    from opentelemetry.sdk.metrics.export import Gauge, Sum
    from opentelemetry.semconv._incubating.metrics import hw_metrics

    known = {value for name, value in vars(hw_metrics).items() if name.startswith("HW_")}
    with stand_in.driver(stand_in.a100()):
        observe(meters.provider)
        data = meters.reader.get_metrics_data()
    assert data is not None
    metrics = [m for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics]
    assert {metric.name for metric in metrics} - known == {"hw.gpu.power.limit"}
    assert {metric.name: metric.unit for metric in metrics} == {
        "hw.gpu.utilization": "1",
        "hw.gpu.memory.usage": "By",
        "hw.gpu.memory.limit": "By",
        "hw.gpu.memory.utilization": "1",
        "hw.temperature": "Cel",
        "hw.power": "W",
        "hw.gpu.power.limit": "W",
        "hw.energy": "J",
        "hw.errors": "{error}",
    }
    monotonic = {m.name for m in metrics if isinstance(m.data, Sum) and m.data.is_monotonic}
    assert monotonic == {"hw.energy", "hw.errors"}
    assert {m.name for m in metrics if isinstance(m.data, Gauge)} >= {"hw.gpu.utilization", "hw.temperature"}


def test_a_divided_gpu(meters: Meters, caplog: pytest.LogCaptureFixture) -> None:
    with stand_in.driver(stand_in.rtx4090(), stand_in.a100_divided()):
        observe(meters.provider)
        assert meters.values("hw.gpu.utilization") == {"0": 0.5}
        used = meters.values("hw.gpu.memory.usage")
        assert used == {"0": 12282 * MIB, "1": 1024 * MIB, "1_mig_0": 11 * MIB, "1_mig_1": 5024 * MIB}
        assert meters.values("hw.power").keys() == {"0", "1"}
        [part] = [a for a, _ in meters.collect()["hw.gpu.memory.limit"] if a["hw.id"] == "1_mig_1"]
        assert part["hw.parent"] == "1"
        assert part["hw.name"] == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
        assert visible_gpus() == [
            {"name": "NVIDIA GeForce RTX 4090", "memory_bytes": 24564 * MIB},
            *[{"name": "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "memory_bytes": 20096 * MIB}] * 2,
        ]
    assert caplog.records == []


def test_a_failing_call_costs_that_value_only(meters: Meters, caplog: pytest.LogCaptureFixture) -> None:
    a100, l4 = stand_in.a100(), stand_in.l4()
    with stand_in.driver(a100, l4):
        observe(meters.provider)
        l4.power_mw = None
        assert meters.values("hw.power") == {"0": 378.123}
        assert meters.values("hw.temperature") == {"0": 61, "1": 31}
        a100.lost = True  # fell off the bus while training
        assert meters.values("hw.temperature") == {"1": 31}
        a100.lost = False
        assert meters.values("hw.temperature") == {"0": 61, "1": 31}
    assert caplog.records == []


def test_a_card_that_is_lost_at_the_start(meters: Meters) -> None:
    lost = stand_in.a100()
    lost.lost = True
    with stand_in.driver(lost, stand_in.l4()):
        observe(meters.provider)
        assert meters.values("hw.temperature") == {"1": 31}


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ["0", "1", "2", "2_mig_0", "2_mig_1"]),
        ("0,1", ["0", "1"]),
        ("1", ["1"]),
        ("2", ["2", "2_mig_0", "2_mig_1"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,7,0", ["1"]),
        ("GPU-8f2a7f5e-2222-4a53-a3f2-0f2c2f6e9f02", ["1"]),
        ("GPU-8f2a7f5e-1", ["0"]),
        ("GPU-8f2a7f5e", []),
        (" 1 , 0 ", ["0", "1"]),
        ("MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", ["2", "2_mig_1"]),
    ],
)
def test_only_what_cuda_shows(
    meters: Meters, monkeypatch: pytest.MonkeyPatch, visible: str | None, ids: list[str]
) -> None:
    with stand_in.driver(stand_in.rtx4090(), stand_in.l4(), stand_in.a100_divided()):
        observe(meters.provider)
        assert len(meters.values("hw.gpu.memory.usage")) == 5
        if visible is not None:  # set by the script, after us
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert list(meters.values("hw.gpu.memory.usage")) == ids


def test_without_a_driver(meters: Meters, caplog: pytest.LogCaptureFixture) -> None:
    with stand_in.driver(init_status=9) as driver:  # NVML_ERROR_DRIVER_NOT_LOADED
        observe(meters.provider)
        assert meters.collect() == meters.collect() == {}
        assert driver.initialized == 1
        assert visible_gpus() == []
    assert caplog.records == []


def test_without_the_library(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "_opened", [])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    observe(meters.provider)
    assert meters.collect() == {}


def test_this_machine_whatever_it_has(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "_opened", [])
    observe(meters.provider)
    for value in meters.values("hw.gpu.utilization").values():
        assert 0 <= value <= 1


def test_a_forked_child_measures_nothing(meters: Meters) -> None:
    with stand_in.driver(stand_in.l4()) as driver:
        observe(meters.provider)
        assert meters.values("hw.temperature") == {"0": 31}
        calls = len(driver.calls)
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()

        def child() -> None:
            found = meters.values("hw.temperature") if os.getpid() else {}
            queue.put((found, len(driver.calls) - calls, visible_gpus()))

        process = context.Process(target=child)
        process.start()
        assert queue.get() == ({}, 0, [])
        process.join()
        assert process.exitcode == 0


def test_the_instrumentor_any_number_of_times(meters: Meters, caplog: pytest.LogCaptureFixture) -> None:
    with stand_in.driver(stand_in.l4()):
        instrumentor = GpuInstrumentor()
        for _ in range(2):
            for _ in range(2):
                instrumentor.instrument(meter_provider=meters.provider)
            assert meters.values("hw.temperature") == {"0": 31}
            for _ in range(2):
                instrumentor.uninstrument()
            assert meters.values("hw.temperature") == {}
        other = Meters()
        instrumentor.instrument(meter_provider=other.provider)
        assert other.values("hw.temperature") == {"0": 31}
        assert meters.values("hw.temperature") == {}
        instrumentor.uninstrument()
        other.provider.shutdown()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_readings_of_a_card(meters: Meters) -> None:
    with stand_in.driver(stand_in.rtx4090()):
        gpu.observe(meters.provider)
        collected = meters.collect()
    points = [SystemPoint(name, a, value, 1) for name, found in collected.items() for a, value in found]
    assert {reading.quantity: reading.value for reading in readings(points)} == {
        "gpu_utilization": 50.0,
        "gpu_memory_used_bytes": 12282 * MIB,
        "gpu_memory_total_bytes": 24564 * MIB,
        "gpu_memory_percent": 50.0,
        "gpu_temperature_celsius": 54,
        "gpu_power_watts": 225.0,
        "gpu_power_limit_watts": 450.0,
        "gpu_power_percent": 50.0,
        "gpu_energy_joules": 2**40 / 1000,
    }
