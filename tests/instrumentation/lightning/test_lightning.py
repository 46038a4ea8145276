"""The Lightning hooks, against real trainers of both packages."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import textwrap
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tracelet_otel import recording
from tracelet_otel.foundation import guard
from tracelet_otel.instrumentation.hooks import silenced
from tracelet_otel.instrumentation.lightning import checkpoints as lightning_checkpoints
from tracelet_otel.instrumentation.lightning.instrumentor import (
    LightningInstrumentor,
    PyTorchLightningInstrumentor,
)
from tracelet_otel.instrumentation.lightning.metrics import metric_log
from tracelet_otel.instrumentation.lightning.writers import Owner, writer_of
from tracelet_otel.instrumentation.tensorboard.instrumentor import (
    TensorBoardInstrumentor,
    TensorBoardXInstrumentor,
)
from tracelet_otel.recording.logged import LoggedEvent, LoggedPoint
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.recording.run import Run, RunScope
from tracelet_otel.settings import CheckpointPolicy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch
    import pytorch_lightning

# Lightning warns of much that a tiny model on a tiny data set does, differently in each version.
pytestmark = [pytest.mark.filterwarnings("ignore")]

PACKAGES = {
    "lightning": (lightning.pytorch, LightningInstrumentor),
    "pytorch_lightning": (pytorch_lightning, PyTorchLightningInstrumentor),
}
BATCHES = 8


@dataclass
class Point:
    tag: str
    value: float
    step: int
    single: bool
    time_unix_nano: int | None = None
    span_id: int = 0

    @property
    def key(self) -> tuple[str, int, float]:
        return self.tag, self.step, self.value


@dataclass
class Event:
    kind: str
    tag: str
    step: int | None
    payload: Any
    attributes: dict[str, Any] = field(default_factory=dict)


class Capture(recording.Recorder):
    """Keeps what is recorded instead of handing it to OpenTelemetry."""

    def __init__(self) -> None:
        self.scope = RunScope(Run())
        self.media = MediaFolder()
        self.points: list[Point] = []
        self.events: list[Event] = []

    def scalar(self, point: LoggedPoint) -> None:
        tag, value, step, time_unix_nano, single, _ = point
        assert type(value) is float
        assert type(step) is int
        span_id = trace.get_current_span().get_span_context().span_id
        self.points.append(Point(tag, value, step, single, time_unix_nano, span_id))

    def event(self, event: LoggedEvent) -> None:
        self.events.append(
            Event(event.kind, event.tag, event.step, event.payload, dict(event.attributes or {}))
        )

    def written(self) -> list[tuple[str, int, float]]:
        return [point.key for point in self.points]

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


@pytest.fixture
def capture() -> Iterator[Capture]:
    before = recording.current()
    recorder = Capture()
    recording.install(recorder)
    yield recorder
    recording.install(before)


@pytest.fixture(params=PACKAGES)
def pl(request: pytest.FixtureRequest) -> Any:
    return PACKAGES[request.param][0]


@pytest.fixture
def instrumentor(pl: Any) -> Iterator[Any]:
    instrumentor = next(kind for module, kind in PACKAGES.values() if module is pl)()
    instrumentor.instrument(skip_dep_check=True)
    yield instrumentor
    instrumentor.uninstrument()


@pytest.fixture
def uninstrumented(instrumentor: Any) -> Callable[[Callable[[], Any]], Any]:
    def call(function: Callable[[], Any]) -> Any:
        instrumentor.uninstrument()
        TensorBoardInstrumentor().uninstrument()  # another test's configure() may have left it on
        TensorBoardXInstrumentor().uninstrument()
        try:
            return function()
        finally:
            instrumentor.instrument(skip_dep_check=True)

    return call


def model_class(pl: Any) -> Any:
    class Model(pl.LightningModule):
        def __init__(self, **hparams: Any) -> None:
            super().__init__()
            if hparams:
                self.save_hyperparameters(hparams)
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            loss = self.layer(batch).pow(2).mean()
            self.log("train/loss", loss, on_step=True, on_epoch=True)
            self.log("tenth", 0.1)
            self.log("hidden", 1.0, logger=False)
            return loss

        def validation_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", self.layer(batch).pow(2).mean(), on_step=True, on_epoch=True)

        def test_step(self, batch: Any, index: int) -> None:
            self.log("test_loss", self.layer(batch).pow(2).mean())

        def predict_step(self, batch: Any, index: int) -> Any:
            return self.layer(batch)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.01)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    return Model


def make_model(pl: Any, **hparams: Any) -> Any:
    torch.manual_seed(0)
    return model_class(pl)(**hparams)


def data(batches: int = BATCHES) -> Any:
    generator = torch.Generator().manual_seed(1)
    samples: Any = torch.randn(4 * batches, 4, generator=generator)
    return torch.utils.data.DataLoader(samples, batch_size=4)


def make_trainer(pl: Any, tmp_path: Path, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "default_root_dir": tmp_path,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "log_every_n_steps": 3,
        "logger": False,
        "max_epochs": 2,
    }
    return pl.Trainer(**{**defaults, **options})


def run_all_stages(pl: Any, tmp_path: Path, **options: Any) -> tuple[Any, Any]:
    model = make_model(pl, lr=0.1)
    trainer = make_trainer(pl, tmp_path, **options)
    trainer.fit(model, data(), [data(2), data(3)])
    results = [trainer.validate(model, data(2), verbose=False), trainer.test(model, data(2), verbose=False)]
    return trainer, results


def list_logger(pl: Any) -> Any:
    class ListLogger(pl.loggers.logger.Logger):
        name = version = "list"

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[str, int, float]] = []
            self.silenced: list[bool] = []
            self.params: list[Any] = []

        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            self.seen += [(tag, step, value) for tag, value in metrics.items()]
            self.silenced.append(silenced())

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            self.params.append(params)
            self.silenced.append(silenced())

    return ListLogger()


# -- metrics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2, "log_every_n_steps": 1}])
def test_without_logger_every_metric_has_the_name_and_step_that_loggers_get(
    pl: Any, capture: Capture, uninstrumented: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    logger = list_logger(pl)
    uninstrumented(lambda: run_all_stages(pl, tmp_path, logger=logger, **options))
    assert not capture.points

    run_all_stages(pl, tmp_path, **options)
    assert capture.written() == logger.seen
    tags = {point.tag for point in capture.points}
    assert {"train/loss_step", "train/loss_epoch", "tenth", "epoch", "test_loss"} <= tags
    assert {"val_loss_step/dataloader_idx_0", "val_loss_epoch/dataloader_idx_1"} <= tags
    assert "hidden" not in tags


def test_same_with_loggers_and_each_value_once(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path, database: Path
) -> None:
    logger = list_logger(pl)
    loggers = [logger, pl.loggers.CSVLogger(tmp_path), pl.loggers.TensorBoardLogger(tmp_path)]
    loggers.append(pl.loggers.MLFlowLogger(tracking_uri=f"sqlite:///{database}"))
    run_all_stages(pl, tmp_path, logger=loggers)
    assert capture.written() == logger.seen
    assert all(logger.silenced)


def test_tensorboard_and_csv_files_of_the_same_fit(
    pl: Any, capture: Capture, uninstrumented: Any, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tensorboard = pl.loggers.TensorBoardLogger(tmp_path, default_hp_metric=False)
    comma_separated = pl.loggers.CSVLogger(tmp_path)
    uninstrumented(lambda: run_all_stages(pl, tmp_path, logger=[tensorboard, comma_separated]))
    run_all_stages(pl, tmp_path)

    events = EventAccumulator(tensorboard.log_dir, size_guidance={"scalars": 0}).Reload()
    tags: Any = events.Tags()
    written = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    recorded: dict[str, list[tuple[int, float]]] = {}
    for point in capture.points:
        recorded.setdefault(point.tag, []).append((point.step, point.value))
    # A logger that was closed between stages goes on in another file, whose place among them is by chance.
    assert {tag: sorted(points) for tag, points in recorded.items()} == {
        tag: sorted(points) for tag, points in written.items()
    }

    with (Path(comma_separated.log_dir) / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for tag, text in row.items():
                if text and tag not in ("step", "epoch"):
                    assert (int(row["step"]), float(text)) in recorded[tag]


def test_float32_is_marked_and_other_numbers_are_exact(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path
) -> None:
    monitor = pl.callbacks.LearningRateMonitor()
    make_trainer(pl, tmp_path, logger=list_logger(pl), callbacks=[monitor]).fit(make_model(pl), data())
    single = {point.tag: point.single for point in capture.points}
    assert single["tenth"]
    assert not single["epoch"]
    assert not single["lr-SGD"]
    assert next(p.value for p in capture.points if p.tag == "lr-SGD") == 0.01


def test_what_a_callback_hands_to_every_logger_is_recorded_once(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path
) -> None:
    first, second = list_logger(pl), list_logger(pl)
    callbacks = [pl.callbacks.LearningRateMonitor("step"), pl.callbacks.DeviceStatsMonitor(cpu_stats=True)]
    loggers = [first, pl.loggers.TensorBoardLogger(tmp_path, default_hp_metric=False), second]
    make_trainer(pl, tmp_path, logger=loggers, callbacks=callbacks).fit(make_model(pl), data())
    assert {"lr-SGD", "DeviceStatsMonitor.on_train_batch_start/cpu_percent"} <= {
        p.tag for p in capture.points
    }
    assert sorted(capture.written()) == sorted(first.seen)
    assert all(first.silenced)
    assert all(second.silenced)


def test_with_the_tensorboard_hook_each_value_is_recorded_once(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path
) -> None:
    from tracelet_otel.instrumentation.tensorboard.instrumentor import TensorBoardInstrumentor

    class Model(model_class(pl)):
        def on_train_start(self) -> None:
            self.logger.experiment.add_scalar("by hand", 0.5, 7)
            self.logger.log_metrics({"handed over": 0.25}, 8)

    TensorBoardInstrumentor().instrument(skip_dep_check=True)
    try:
        model = Model(lr=0.1)
        monitor = pl.callbacks.LearningRateMonitor()
        loggers = [pl.loggers.TensorBoardLogger(tmp_path), pl.loggers.CSVLogger(tmp_path)]
        make_trainer(pl, tmp_path, logger=loggers, callbacks=[monitor]).fit(model, data(), data(1))
    finally:
        TensorBoardInstrumentor().uninstrument()
    written = capture.written()
    assert written.count(("by hand", 7, 0.5)) == 1
    assert written.count(("handed over", 8, 0.25)) == 1
    assert [point.step for point in capture.points if point.tag == "train/loss_step"] == [2, 5, 8, 11, 14]
    assert [point.step for point in capture.points if point.tag == "val_loss_epoch"] == [7, 15]
    assert [point.step for point in capture.points if point.tag == "lr-SGD"] == [0, 8]
    assert "hp_metric" not in {point.tag for point in capture.points}
    assert [json.loads(event.payload) for event in capture.of("params")] == [{"lr": 0.1}]


def test_users_own_calls_of_their_loggers(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path
) -> None:
    logger = list_logger(pl)

    class Model(model_class(pl)):
        def on_train_start(self) -> None:
            self.logger.log_metrics({"a": 1, "text": "x", "b": {"c": 2.5}}, step=7)
            self.logger.log_metrics({"a": 1}, step=7)
            self.logger.log_hyperparams({"depth": 3})

    make_trainer(pl, tmp_path, logger=logger, max_epochs=0).fit(Model(), data())
    assert sorted(capture.written()) == []  # the fit had nothing to do
    make_trainer(pl, tmp_path, logger=logger, limit_train_batches=1, max_epochs=1).fit(Model(), data())
    assert capture.written()[:3] == [("a", 7, 1.0), ("b/c", 7, 2.5), ("a", 7, 1.0)]
    assert [json.loads(event.payload) for event in capture.of("params")] == [{"depth": 3}]
    logger.log_metrics({"after": 2}, 3)
    assert capture.written()[-1] == ("after", 3, 2.0)
    list_logger(pl).log_metrics({"nobody's": 1}, 1)
    assert capture.written()[-1][0] == "after"


def test_a_metric_named_step_is_the_step(
    pl: Any, capture: Capture, uninstrumented: Any, tmp_path: Path
) -> None:
    class Model(model_class(pl)):
        def on_train_epoch_end(self) -> None:
            self.log("step", float(self.current_epoch + 100))
            self.log("at_epoch", 1.5)

    def fit(logger: Any) -> None:
        torch.manual_seed(0)
        make_trainer(pl, tmp_path, logger=logger).fit(Model(), data())

    logger = list_logger(pl)
    uninstrumented(lambda: fit(logger))
    fit(False)
    assert capture.written() == logger.seen
    assert ("at_epoch", 100, 1.5) in capture.written()


def test_fast_dev_run_and_sanity_check_record_no_metrics(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path
) -> None:
    for logger in (False, True):
        make_trainer(pl, tmp_path, fast_dev_run=True, logger=logger).fit(make_model(pl, lr=1), data(), data())
    assert not capture.points
    assert not capture.events
    trainer = make_trainer(pl, tmp_path, limit_train_batches=1, max_epochs=1, limit_val_batches=0)
    trainer.fit(make_model(pl), data(), data())
    assert {point.tag for point in capture.points} == {"train/loss_epoch", "epoch"}


def test_tuner_trials_record_nothing(pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path) -> None:
    tuner = import_module(f"{pl.__name__}.tuner")
    model = make_model(pl, lr=0.1)
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), model.hparams.lr)
    trainer = make_trainer(pl, tmp_path, log_every_n_steps=1)
    tuner.Tuner(trainer).lr_find(model, data(50), num_training=20)
    assert not capture.points
    assert not capture.events


def test_tuner_callbacks_record_the_training_and_no_trial(
    pl: Any, capture: Capture, uninstrumented: Any, tmp_path: Path
) -> None:
    class Finder(pl.callbacks.LearningRateFinder):
        def on_fit_start(self, *args: Any) -> None:
            pass

        def on_train_epoch_start(self, trainer: Any, model: Any) -> None:
            if trainer.current_epoch == 1:
                self.lr_find(trainer, model)

    class Data(pl.LightningDataModule):
        batch_size = 2

        def train_dataloader(self) -> Any:
            samples: Any = torch.arange(4.0 * 48).reshape(48, 4) / 100
            return torch.utils.data.DataLoader(samples, batch_size=self.batch_size)

        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    def run(logger: Any) -> None:
        scaler = pl.callbacks.BatchSizeFinder(max_trials=1, steps_per_trial=1)
        model = make_model(pl, lr=0.1)
        model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), model.hparams.lr)
        finder = Finder(num_training_steps=5, update_attr=True)
        trainer = make_trainer(pl, tmp_path, log_every_n_steps=1, logger=logger, callbacks=[scaler, finder])
        trainer.fit(model, datamodule=Data())
        trainer.validate(model, datamodule=Data(), verbose=False)

    logger = list_logger(pl)
    uninstrumented(lambda: run(logger))
    run(False)
    assert capture.written() == logger.seen
    capture.points.clear()
    capture.scope = RunScope(Run())
    run(list_logger(pl))
    assert capture.written() == logger.seen


# -- values on a device -------------------------------------------------------------------------


class DeviceTensor(torch.Tensor):
    """Looks as if it was on a device, and tells who reads it."""

    reads: ClassVar[list[str]] = []
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__"):
            cls.reads.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})


def on_device(value: float) -> torch.Tensor:
    return torch.tensor(value).as_subclass(DeviceTensor)


def test_values_on_a_device_are_read_at_the_next_collection(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path
) -> None:
    provider, exporter = make_provider()
    instrumentor.uninstrument()
    instrumentor.instrument(skip_dep_check=True, tracer_provider=provider)
    reads_in_training: list[int] = []

    class Model(model_class(pl)):
        def training_step(self, batch: Any, index: int) -> Any:
            self.log("on_device", on_device(index + 0.1), on_step=True, on_epoch=True)
            self.log("on_cpu", index + 0.1)
            return self.layer(batch).mean()

        def on_train_end(self) -> None:
            reads_in_training.append(len(DeviceTensor.reads))

    DeviceTensor.reads.clear()
    make_trainer(pl, tmp_path, log_every_n_steps=1, max_epochs=1).fit(Model(), data(3))
    assert reads_in_training == [0]
    assert [key[:2] for key in capture.written()] == [
        *((tag, step) for step in range(3) for tag in ("on_cpu", "epoch")),
        ("epoch", 2),
    ]
    at_logging = [point for point in capture.points if point.tag == "on_cpu"]

    assert not [span for span in exporter.get_finished_spans() if span.name == "epoch"]
    for callback in recording.collection_callbacks():
        callback()
    assert len(DeviceTensor.reads) == 1  # one copy for all of them
    late = [point for point in capture.points if point.tag.startswith("on_device")]
    assert [point.key[:2] for point in late] == [("on_device_step", s) for s in range(3)] + [
        ("on_device_epoch", 2)
    ]
    assert [point.value for point in late] == pytest.approx([0.1, 1.1, 2.1, 1.1])
    assert all(point.single for point in late)
    # As if they had been recorded when they were logged.
    assert [p.time_unix_nano for p in late[:3]] == [p.time_unix_nano for p in at_logging]
    assert [p.span_id for p in late[:3]] == [p.span_id for p in at_logging] != [0, 0, 0]
    spans: Any = exporter.get_finished_spans()
    (epoch,) = [span for span in spans if span.name == "epoch"]
    assert [set(event.attributes) for event in epoch.events] == [
        {"epoch", "tracelet.step"},
        {"on_device_epoch", "tracelet.step"},
    ]


def test_a_device_value_changed_in_place_later_keeps_what_was_logged(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path
) -> None:
    value, step = on_device(1.0), on_device(5)
    log, writer = metric_log(), writer_of(capture, Owner.of(make_trainer(pl, tmp_path)))
    log.log(writer, {"a": value, "b": 2.5, "c": torch.tensor([1.0, 2.0]).as_subclass(DeviceTensor)}, step)
    log.log(writer, {"a": value}, 6)
    value.mul_(100)
    step.add_(1)
    assert not capture.points
    log.drain()
    assert sorted(capture.written()) == [("a", 5, 1.0), ("a", 6, 1.0), ("b", 5, 2.5)]
    log.drain()
    assert len(capture.points) == 3


# -- hyperparameters ----------------------------------------------------------------------------


def make_data_module(pl: Any, **hparams: Any) -> Any:
    class Data(pl.LightningDataModule):
        def __init__(self, **hparams: Any) -> None:
            super().__init__()
            self.save_hyperparameters(hparams)

        def train_dataloader(self) -> Any:
            return data(1)

        test_dataloader = train_dataloader

    return Data(**hparams)


@pytest.mark.parametrize("with_logger", [False, True])
def test_hyperparameters_of_module_and_data(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path, with_logger: bool
) -> None:
    model = make_model(
        pl, lr=0.1, nested={"a": [1, None, True], "ns": Namespace(x=Path("p"))}, kind=torch.nn.ReLU
    )
    module = make_data_module(pl, batch_size=4, lr=0.1)
    logger = list_logger(pl)
    loggers = [logger, pl.loggers.TensorBoardLogger(tmp_path)] if with_logger else False
    trainer = make_trainer(pl, tmp_path, max_epochs=1, logger=loggers)
    trainer.fit(model, datamodule=module)
    trainer.test(model, datamodule=module, verbose=False)
    assert [json.loads(event.payload) for event in capture.of("params")] == 2 * [
        {
            "lr": 0.1,
            "nested": {"a": [1, None, True], "ns": {"x": "p"}},
            "kind": "torch.nn.modules.activation.ReLU",
            "batch_size": 4,
        }
    ]
    assert len(logger.params) == 2 * with_logger
    assert all(logger.silenced)
    assert "hp_metric" not in {point.tag for point in capture.points}


def test_conflicting_hyperparameters(pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path) -> None:
    model, module = make_model(pl, lr=0.1), make_data_module(pl, lr=0.2)
    make_trainer(pl, tmp_path, max_epochs=1).fit(model, datamodule=module)
    assert json.loads(capture.of("params")[0].payload) == {"lr": 0.1, "datamodule.lr": 0.2}
    with pytest.raises(RuntimeError, match="Error while merging hparams"):
        make_trainer(pl, tmp_path, max_epochs=1, logger=list_logger(pl)).fit(model, datamodule=module)


def test_hyperparameters_are_respected_as_private(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path
) -> None:
    model = make_model(pl)
    model.save_hyperparameters({"secret": 1}, logger=False)
    make_trainer(pl, tmp_path, max_epochs=1).fit(model, data(1))
    make_trainer(pl, tmp_path, max_epochs=1, enable_autolog_hparams=False).fit(make_model(pl, lr=1), data(1))
    assert not capture.of("params")


def test_graph_of_a_tensorboard_logger_is_not_silenced(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path
) -> None:
    seen: list[bool] = []

    class Logger(pl.loggers.TensorBoardLogger):
        def log_graph(self, *args: Any, **kwargs: Any) -> None:
            seen.append(silenced())

    make_trainer(pl, tmp_path, max_epochs=1, logger=Logger(tmp_path)).fit(make_model(pl, lr=1), data(1))
    assert seen == [False]


# -- checkpoints --------------------------------------------------------------------------------


def fit_with_checkpoints(pl: Any, tmp_path: Path, **options: Any) -> Any:
    checkpoint = pl.callbacks.ModelCheckpoint(
        dirpath=tmp_path / "kept", monitor="val_loss_epoch", save_last=True, **options
    )
    trainer = make_trainer(pl, tmp_path, enable_checkpointing=True, callbacks=[checkpoint], max_epochs=3)
    trainer.fit(make_model(pl), data(), data(2))
    return checkpoint


def test_every_checkpoint_is_recorded(pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path) -> None:
    checkpoint = fit_with_checkpoints(pl, tmp_path, save_top_k=-1, filename="{epoch}-{val_loss_epoch:.2f}")
    saved = [event for event in capture.of("artifact") if event.tag != "checkpoints/last.ckpt"]
    assert [event.step for event in saved] == [8, 16, 24]
    assert len(capture.of("artifact")) == 6
    for event in saved:
        path = Path(event.attributes["tracelet.checkpoint.path"])
        assert event.attributes["tracelet.file.name"] == event.tag == f"checkpoints/{path.name}"
        assert event.attributes["tracelet.checkpoint.size"] == path.stat().st_size
        assert event.attributes["tracelet.checkpoint.score"] == float(checkpoint.best_k_models[str(path)])
        assert event.attributes["tracelet.checkpoint.monitor"] == "val_loss_epoch"
        assert event.payload is None
        assert "tracelet.payload.uri" not in event.attributes
    assert [event.attributes["tracelet.checkpoint.best"] for event in saved] == [True, True, True]


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("policy", ["best", "all"])
def test_uploads(
    pl: Any,
    instrumentor: Any,
    capture: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    policy: CheckpointPolicy,
    inline: bool,
) -> None:
    capture.checkpoints = policy
    if not inline:
        monkeypatch.setattr(lightning_checkpoints, "MAX_INLINE_BYTES", 10)
    checkpoint = fit_with_checkpoints(pl, tmp_path, save_top_k=1)
    best = Path(checkpoint.best_model_path).read_bytes()
    assert len(list((tmp_path / "kept").iterdir())) == 2  # the others were rotated away

    def content(event: Event) -> bytes | None:
        uri = event.attributes.get("tracelet.payload.uri")
        return Path(uri).read_bytes() if uri else event.payload

    contents = [content(event) for event in capture.of("artifact")]
    sizes = [event.attributes["tracelet.checkpoint.size"] for event in capture.of("artifact")]
    assert all(item is None or len(item) == size for item, size in zip(contents, sizes, strict=True))
    if policy == "best":
        assert contents == 6 * [None] + [best]
        assert capture.events[-1].attributes["tracelet.checkpoint.best"]
    else:
        assert len(contents) == 6
        assert None not in contents
        assert contents[-2] == best
    capture.media.remove()
    assert inline or not any(
        Path(e.attributes.get("tracelet.payload.uri", "")).is_file() for e in capture.events
    )


def test_asynchronous_and_sharded_checkpoints(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture.checkpoints = "all"
    plugins = import_module(f"{pl.__name__}.plugins")

    class Sharded(plugins.TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            Path(path).mkdir(parents=True)
            (Path(path) / "shard").write_bytes(b"12345")

    for plugin, payload in ((plugins.AsyncCheckpointIO(), True), (Sharded(), False)):
        capture.events.clear()
        folder = tmp_path / type(plugin).__name__
        checkpoint = pl.callbacks.ModelCheckpoint(dirpath=folder)
        trainer = make_trainer(
            pl, tmp_path, max_epochs=1, enable_checkpointing=True, callbacks=[checkpoint], plugins=[plugin]
        )
        trainer.fit(make_model(pl), data(1))
        (event,) = capture.of("artifact")
        assert (event.payload is not None) == payload
        size = event.attributes["tracelet.checkpoint.size"]
        assert size == len(event.payload or b"12345")


# -- model summary ------------------------------------------------------------------------------


@pytest.mark.parametrize("enabled", [True, False])
def test_model_summary(pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path, enabled: bool) -> None:
    make_trainer(pl, tmp_path, max_epochs=1, enable_model_summary=enabled).fit(make_model(pl), data(1))
    (event,) = capture.of("text")
    assert (event.tag, event.step) == ("model_summary", 0)
    assert b"layer" in event.payload
    assert b"Trainable params" in event.payload


def test_example_input_is_not_run_through_the_model_for_us(
    pl: Any, capture: Capture, uninstrumented: Any, tmp_path: Path
) -> None:
    class Model(model_class(pl)):
        calls = 0
        example_input_array = torch.zeros(2, 4)

        def forward(self, batch: Any) -> Any:
            type(self).calls += 1
            return self.layer(batch)

    def fit(enabled: bool) -> int:
        Model.calls = 0
        make_trainer(pl, tmp_path, max_epochs=1, enable_model_summary=enabled).fit(Model(), data(1))
        return Model.calls

    assert [uninstrumented(lambda: fit(True)), fit(True), fit(False)] == [1, 1, 0]
    assert len(capture.of("text")) == 1


# -- spans --------------------------------------------------------------------------------------


def make_provider() -> tuple[TracerProvider, InMemorySpanExporter]:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def test_spans(pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path) -> None:
    provider, exporter = make_provider()
    instrumentor.uninstrument()
    instrumentor.instrument(skip_dep_check=True, tracer_provider=provider)
    model = make_model(pl)
    trainer = make_trainer(pl, tmp_path, limit_train_batches=2, log_every_n_steps=1)
    trainer.fit(model, data(), data(2))
    trainer.test(model, data(1), verbose=False)
    trainer.predict(model, data(1))
    assert not trace.get_current_span().get_span_context().is_valid

    spans: Any = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans}
    tree = [(span.name, names[span.parent.span_id] if span.parent else None) for span in spans]
    assert tree == [
        ("sanity_check", "fit"),
        ("validation", "epoch"),
        ("epoch", "fit"),
        ("validation", "epoch"),
        ("epoch", "fit"),
        ("fit", None),
        ("test", None),
        ("predict", None),
    ]
    epochs = [span for span in spans if span.name == "epoch"]
    assert [span.attributes["epoch"] for span in epochs] == [0, 1]
    for span, step in zip(epochs, (1, 3), strict=True):
        assert [event.name for event in span.events] == ["training.metrics"] * 2
        assert span.events[0].attributes["tracelet.step"] == step
        assert "val_loss_epoch" in span.events[0].attributes
        assert "train/loss_epoch" in span.events[1].attributes
    (test,) = [span for span in spans if span.name == "test"]
    assert "test_loss" in test.events[0].attributes
    steps = [point for point in capture.points if point.tag == "train/loss_step"]
    assert [names[point.span_id] for point in steps] == ["epoch"] * 4


def test_spans_end_when_training_raises(pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path) -> None:
    provider, exporter = make_provider()
    instrumentor.uninstrument()
    instrumentor.instrument(skip_dep_check=True, tracer_provider=provider)

    class Model(model_class(pl)):
        def training_step(self, batch: Any, index: int) -> Any:
            raise ZeroDivisionError("mine: s3://me:canary@bucket")

    with pytest.raises(ZeroDivisionError, match="mine: s3://me:canary@bucket"):
        make_trainer(pl, tmp_path).fit(Model(), data())
    spans = exporter.get_finished_spans()
    assert [(span.name, span.status.is_ok) for span in spans] == [("epoch", False), ("fit", False)]
    for span in spans:
        event = span.events[-1]
        assert event.attributes is not None
        assert event.attributes["exception.type"] == "ZeroDivisionError"
        assert event.attributes["exception.message"] == "mine: s3://***@bucket"
        assert span.status.description == "ZeroDivisionError: mine: s3://***@bucket"
        assert "canary" not in span.to_json()
    assert not trace.get_current_span().get_span_context().is_valid


def test_keyboard_interrupt_ends_as_without_us(
    pl: Any, capture: Capture, uninstrumented: Any, tmp_path: Path
) -> None:
    class Model(model_class(pl)):
        def training_step(self, batch: Any, index: int) -> Any:
            raise KeyboardInterrupt

    def fit() -> tuple[Any, Any, str]:
        trainer = make_trainer(pl, tmp_path)
        with pytest.raises(SystemExit) as raised:
            trainer.fit(Model(), data())
        return raised.value.code, type(raised.value.__context__), str(trainer.state.status)

    assert fit() == uninstrumented(fit)


# -- nothing else changes -----------------------------------------------------------------------


@pytest.mark.parametrize("logger", [False, True])
def test_trainer_is_the_same_with_and_without_us(
    pl: Any, capture: Capture, uninstrumented: Any, tmp_path: Path, logger: bool
) -> None:
    def run(folder: Path) -> tuple[Any, ...]:
        trainer, results = run_all_stages(
            pl, folder, logger=logger, enable_checkpointing=True, enable_model_summary=True
        )
        predictions = trainer.predict(trainer.lightning_module, data(1))
        return (
            sorted(
                str(path.relative_to(folder)) for path in folder.rglob("*") if "tfevents" not in path.name
            ),
            results,
            [[float(value) for value in batch] for batch in predictions],
            [type(callback).__name__ for callback in trainer.callbacks],
            [type(item).__name__ for item in trainer.loggers],
            {name: float(value) for name, value in trainer.callback_metrics.items()},
            {name: float(value) for name, value in trainer.logged_metrics.items()},
        )

    assert run(tmp_path / "with") == uninstrumented(lambda: run(tmp_path / "without"))


def test_our_failures_stay_ours(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "raises", False)

    def fail(*args: Any) -> None:
        raise RuntimeError("broken recorder")

    monkeypatch.setattr(capture, "scalar", fail)
    monkeypatch.setattr(capture, "event", fail)
    trainer, _ = run_all_stages(pl, tmp_path, enable_checkpointing=True)
    assert trainer.global_step == 2 * BATCHES


def test_without_a_pipeline_nothing_is_kept(pl: Any, instrumentor: Any, tmp_path: Path) -> None:
    assert recording.current() is None
    run_all_stages(pl, tmp_path)
    assert not metric_log()._waiting


# -- instrumenting ------------------------------------------------------------------------------


def test_instrument_and_uninstrument_any_number_of_times(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connector = import_module(
        f"{pl.__name__}.trainer.connectors.logger_connector.logger_connector"
    )._LoggerConnector
    for _ in range(2):
        instrumentor.instrument(skip_dep_check=True)
    make_trainer(pl, tmp_path, logger=list_logger(pl)).fit(make_model(pl), data())
    recorded = len(capture.points)
    assert recorded == len({(p.tag, p.step, p.time_unix_nano) for p in capture.points})
    for _ in range(2):
        instrumentor.uninstrument()
    assert not hasattr(connector.log_metrics, "__wrapped__")
    assert not hasattr(pl.Trainer._run, "__wrapped__")
    make_trainer(pl, tmp_path).fit(make_model(pl), data())
    assert len(capture.points) == recorded
    instrumentor.instrument(skip_dep_check=True)
    make_trainer(pl, tmp_path, logger=list_logger(pl)).fit(make_model(pl), data())
    assert len(capture.points) == 2 * recorded
    assert not [record for record in caplog.records if "instrument" in record.name]


def test_another_tools_wrap_survives(
    pl: Any, instrumentor: Any, capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, calls = pl.Trainer._run, []

    def theirs(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return ours(self, *args, **kwargs)

    monkeypatch.setattr(pl.Trainer, "_run", theirs)
    instrumentor.uninstrument()
    make_trainer(pl, tmp_path).fit(make_model(pl, lr=1), data())
    assert calls == [1]
    assert not capture.points
    assert not capture.events
    assert pl.Trainer._run is theirs


def in_subprocess(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("order", ["before", "after"])
def test_import_order(package: str, order: str) -> None:
    names = "LightningInstrumentor" if package == "lightning" else "PyTorchLightningInstrumentor"
    out = in_subprocess(
        f"""
        import sys
        if {order!r} == "after":
            import {package}
        from tracelet_otel.instrumentation.lightning.instrumentor import {names}
        {names}().instrument()
        if {order!r} == "before":
            assert not {{"torch", "lightning", "pytorch_lightning"}} & set(sys.modules)
            import {package}
        modules = [name in sys.modules for name in ("pytorch_lightning", "lightning")]
        print(hasattr({package}.Trainer._run, "__wrapped__"), *modules)
        """
    )
    assert out.split() == ["True", str(package != "lightning"), str(package == "lightning")]


@pytest.mark.slow
def test_only_global_rank_zero_records(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            import test_lightning as t
            if __name__ == "__main__":
                capture = t.Capture()
                t.recording.install(capture)
                t.LightningInstrumentor().instrument()
                pl, (folder, strategy) = t.lightning.pytorch, sys.argv[1:]
                trainer = t.make_trainer(pl, folder, devices=2, strategy=strategy, enable_checkpointing=True)
                trainer.fit(t.make_model(pl, lr=1), t.data(), t.data(2))
                counts = f"{len(capture.points)} {len(capture.events)} {len(capture.of('artifact'))}"
                t.Path(folder, f"rank{trainer.global_rank}").write_text(counts)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, tmp_path, "ddp"],
        check=False,
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    points, _, checkpoints = (tmp_path / "rank0").read_text().split()
    assert int(points) > 0
    assert checkpoints == "2"
    assert (tmp_path / "rank1").read_text() == "0 0 0"
