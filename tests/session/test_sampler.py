"""The machine's samples: they arrive, and one that hangs holds up nothing else."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, Observation

import tracelet_otel
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.instrumentation.machine import system
from tracelet_otel.session import sampler


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "INTERVAL_S", 0.02)


def names(folder: Path) -> set[str]:
    from tracelet_otel.otlp.decoding import parse_metrics

    return {
        metric.name
        for batch in read(folder)
        if isinstance(batch.metrics, bytes)
        for resource in parse_metrics(batch.metrics).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def wait_for(name: str, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while name not in names(folder):
        assert time.monotonic() < deadline, f"no {name} in {names(folder)}"
        assert tracelet_otel.flush()


def test_samples_arrive_once_a_run_is_open(tmp_path: Path) -> None:
    with tracelet_otel.configure(backends={"file": {"path": tmp_path / "spool"}}):
        tracelet_otel.flush()
        assert names(tmp_path / "spool") == set()  # nothing is logged yet: no run, no sample
        tracelet_otel.log_scalar("loss", 1.0, 0)
        wait_for("system.cpu.utilization", tmp_path / "spool")
        wait_for("process.memory.usage", tmp_path / "spool")


def test_a_sample_that_hangs_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, released = threading.Event(), threading.Event()

    def ask_a_dead_network_folder(options: CallbackOptions) -> list[Observation]:
        hangs.set()
        released.wait(60)
        return []

    def observe(provider: Any) -> None:
        provider.get_meter("system").create_observable_gauge("system.x", [ask_a_dead_network_folder])

    monkeypatch.setattr(system, "observe", observe)
    try:
        with tracelet_otel.configure(backends={"file": {"path": tmp_path / "spool"}}, shutdown_timeout=5):
            tracelet_otel.log_scalar("loss", 1.0, 0)
            assert hangs.wait(60)
            tracelet_otel.log_scalar("loss", 0.5, 1)
            assert tracelet_otel.flush()
            assert "training.scalar" in names(tmp_path / "spool")
            begin = time.monotonic()
        assert time.monotonic() - begin < 5
        assert not released.is_set()
    finally:
        released.set()
