"""On a machine with an NVIDIA GPU and its driver: what the other tests hold against a stand-in, for real."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import lightning
import pytest
import torch
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

import tracelet_otel
from tracelet_otel import recording
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.instrumentation.lightning.metrics import metric_log
from tracelet_otel.instrumentation.lightning.writers import Writer
from tracelet_otel.instrumentation.machine import gpu
from tracelet_otel.instrumentation.machine.nvml import nvml
from tracelet_otel.otlp.decoding import decode_series, parse_metrics, system_points
from tracelet_otel.session import sampler

pytestmark = [
    pytest.mark.skipif(
        not torch.cuda.is_available() or nvml() is None, reason="there is no NVIDIA GPU that torch can use"
    ),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*train_dataloader.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # Lightning, with newer releases of torch
]
MIB = 1024 * 1024


def asked_nvidia_smi(*fields: str) -> dict[str, str]:
    """Of the first GPU."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return dict(zip(fields, (part.strip() for part in done.stdout.strip().split(",")), strict=True))


def measured() -> dict[str, float]:
    """The quantities of the first GPU."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    gpu.observe(provider)
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if (attributes := dict(point.attributes or {}))["hw.id"] == "0"
        and attributes.get("error.type") != "uncorrected"
        and isinstance(point, NumberDataPoint)
    }


def written(folder: Path) -> list[ExportMetricsServiceRequest]:
    return [parse_metrics(batch.metrics) for batch in read(folder) if isinstance(batch.metrics, bytes)]


def busy(seconds: float) -> None:
    matrix = torch.randn(4096, 4096, device="cuda")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(20):
            matrix = torch.tanh(matrix @ matrix)
        torch.cuda.synchronize()


def test_the_driver_says_the_same_as_nvidia_smi() -> None:
    said = asked_nvidia_smi("name", "memory.total", "enforced.power.limit")
    (first, *_) = gpu.visible_gpus()
    assert first["name"] == said["name"]
    assert first["memory_bytes"] == pytest.approx(float(said["memory.total"]) * MIB, rel=0.01)
    found = measured()
    assert found["hw.gpu.memory.limit"] == first["memory_bytes"]
    if said["enforced.power.limit"].replace(".", "").isdigit():
        assert found["hw.gpu.power.limit"] == pytest.approx(float(said["enforced.power.limit"]), rel=0.01)
    assert 0 < found["hw.temperature"] < 110


def test_what_the_gpu_does_shows() -> None:
    before = measured()
    block = torch.ones(1024 * MIB, dtype=torch.uint8, device="cuda")
    during = measured()
    assert during["hw.gpu.memory.usage"] - before["hw.gpu.memory.usage"] >= block.numel()
    assert 0 < during["hw.gpu.memory.utilization"] < 1
    busy(3)
    after = measured()
    assert after["hw.gpu.utilization"] > 0.5
    assert after["hw.power"] > 0
    if "hw.energy" in before:  # joules, of seconds of work
        assert 10 < after["hw.energy"] - before["hw.energy"] < 100_000


def test_a_run_has_the_gpu_and_its_exact_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "INTERVAL_S", 0.2)
    values = torch.rand(1000, device="cuda")
    with tracelet_otel.configure(backends={"file": {"path": tmp_path / "spool"}}):
        for step in range(1000):
            tracelet_otel.log_scalar("loss", values[step], step)
        busy(1)
        tracelet_otel.flush()
        busy(1)
    requests = written(tmp_path / "spool")
    points = [point for request in requests for series in decode_series(request) for point in series.points]
    assert [point.step for point in points] == list(range(1000))
    logged = torch.tensor([point.value for point in points], dtype=torch.float32)
    assert torch.equal(logged, values.cpu())
    seen = {point.name for request in requests for point in system_points(request)}
    assert {"hw.gpu.utilization", "hw.gpu.memory.usage", "hw.power", "hw.temperature"} <= seen


def test_metrics_on_the_device_do_not_make_training_wait(tmp_path: Path) -> None:
    with tracelet_otel.configure(backends={"file": {"path": tmp_path / "spool"}}, export_interval=3_600_000):
        tracelet_otel.log_scalar("warm-up", 0.0, 0)
        log, recorder = metric_log(), recording.current()
        assert recorder is not None
        writer = Writer(recorder, recorder.scope.current(), str, prefix="")
        kept = torch.rand(200, device="cuda")
        changed = kept.clone()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")  # any call that waits for the device raises
        try:
            for step in range(200):
                log.log(writer, {"loss": changed[step], "half": changed[step].half()}, step)
                changed[step] += 1.0  # in place, as an optimizer does: what was logged must not change
        finally:
            torch.cuda.set_sync_debug_mode("default")
    series = [
        (one.tag, point.step, point.value)
        for request in written(tmp_path / "spool")
        for one in decode_series(request)
        for point in one.points
    ]
    loss = {step: value for tag, step, value in series if tag == "loss"}
    half = {step: value for tag, step, value in series if tag == "half"}
    assert torch.equal(torch.tensor([loss[step] for step in range(200)]), kept.cpu())
    assert torch.equal(torch.tensor([half[step] for step in range(200)]).half(), kept.half().cpu())


def test_a_fit_on_the_gpu_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[float] = []

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 1)

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            assert batch[0].is_cuda
            loss = self.layer(batch[0]).pow(2).mean()
            self.log("train_loss", loss)
            said.append(loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    with tracelet_otel.configure(backends={"file": {"path": tmp_path / "spool"}}):
        trainer = lightning.Trainer(
            accelerator="gpu", devices=1, max_epochs=2, log_every_n_steps=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        data = torch.utils.data.TensorDataset(torch.randn(160, 8))
        trainer.fit(Model(), torch.utils.data.DataLoader(data, batch_size=8))
    points = [
        (point.step, point.value)
        for request in written(tmp_path / "spool")
        for one in decode_series(request)
        if one.tag == "train_loss"
        for point in one.points
    ]
    assert [step for step, _ in points] == list(range(40))
    recorded = torch.tensor([value for _, value in points], dtype=torch.float32)
    assert torch.equal(recorded, torch.tensor(said, dtype=torch.float32))
