"""The machine's instruments, on this machine."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tracelet_otel.instrumentation.machine import system
from tracelet_otel.instrumentation.machine.system import observe
from tracelet_otel.otlp.records import SystemPoint
from tracelet_otel_exporters.shared.machine import Reading, readings


class Meters:
    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def collect(self) -> list[SystemPoint]:
        data = self.reader.get_metrics_data()
        metrics: list[Any] = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [
            SystemPoint(metric.name, dict(point.attributes or {}), point.value, point.time_unix_nano)
            for metric in metrics
            for point in metric.data.data_points
        ]

    def readings(self) -> dict[str, Reading]:
        return {reading.quantity: reading for reading in readings(self.collect())}


@pytest.fixture
def meters() -> Iterator[Meters]:
    made = Meters()
    yield made
    made.provider.shutdown()


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "SHORTEST_S", 0.0)


def burn(seconds: float) -> None:
    """Uses one CPU for as long as the kernel counts it, so that no CPU is measured over nothing."""
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


@pytest.mark.usefixtures("no_wait")
def test_this_machine(meters: Meters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    observe(meters.provider)
    burn(0.2)
    found = meters.readings()
    assert 0 < found["cpu"].value <= 100
    assert found["process_cpu"].value > 0
    assert found["memory_percent"].value == pytest.approx(psutil.virtual_memory().percent, abs=30)
    assert found["process_memory_bytes"].value == pytest.approx(psutil.Process().memory_info().rss, rel=0.3)
    total = psutil.virtual_memory().total
    share = 100 * found["process_memory_bytes"].value / total
    assert found["process_memory_percent"].value == pytest.approx(share, rel=0.1)
    disk = shutil.disk_usage(tmp_path)
    assert found["disk_free_bytes"].value == pytest.approx(disk.free, rel=0.1)
    assert found["disk_percent"].value == pytest.approx(psutil.disk_usage(str(tmp_path)).percent, abs=2)
    assert found["process_threads"].value == pytest.approx(psutil.Process().num_threads(), abs=3)
    received = sum(n.bytes_recv for name, n in psutil.net_io_counters(pernic=True).items() if name != "lo")
    assert found["network_received_bytes"].value == pytest.approx(received, rel=0.1)


def test_a_cpu_is_not_measured_over_a_moment(meters: Meters) -> None:
    observe(meters.provider)
    assert "cpu" not in meters.readings()


@pytest.mark.usefixtures("no_wait")
def test_any_thread_may_collect(meters: Meters) -> None:
    observe(meters.provider)
    burn(0.1)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(meters.readings()))
    thread.start()
    thread.join()
    assert found[0]["cpu"].value > 0


@pytest.mark.usefixtures("no_wait")
def test_the_users_own_instrumentor_is_not_disturbed(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs, later = Meters(), Meters(), Meters()
    users = SystemMetricsInstrumentor(config={"process.thread.count": None})
    users.instrument(meter_provider=theirs.provider)
    try:
        observe(ours.provider)
        assert SystemMetricsInstrumentor._instance is users
        assert [point.name for point in theirs.collect()] == ["process.thread.count"]
        assert len(ours.collect()) > 10
        users.uninstrument()
        users.instrument(meter_provider=later.provider)
        assert [point.name for point in later.collect()] == ["process.thread.count"]
    finally:
        users.uninstrument()
        SystemMetricsInstrumentor._instance = None
        for made in (ours, theirs, later):
            made.provider.shutdown()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_one_session_after_the_other(caplog: pytest.LogCaptureFixture) -> None:
    before = SystemMetricsInstrumentor._instance
    for _ in range(3):
        made = Meters()
        observe(made.provider)
        assert {"memory_percent", "disk_percent", "process_threads"} <= made.readings().keys()
        made.provider.shutdown()
    assert SystemMetricsInstrumentor._instance is before
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_what_cannot_be_measured_is_left_out(
    meters: Meters, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("platform with neither /proc/diskstats nor /sys/block")

    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    observe(meters.provider)
    folder.rmdir()
    monkeypatch.setattr(psutil, "disk_io_counters", fail)
    found = meters.readings()
    assert "disk_read_bytes" not in found
    assert "disk_percent" not in found
    assert "memory_percent" in found
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_without_psutil(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.system_metrics", None)
    observe(meters.provider)
    assert meters.collect() == []


def test_a_forked_child_measures_nothing(meters: Meters) -> None:
    observe(meters.provider)
    assert meters.collect()
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, b"none" if not meters.collect() else b"some")
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    assert os.read(reader, 10) == b"none"
    os.close(reader)
