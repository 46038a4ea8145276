"""Several trainers and loggers in one run: whose a value is, compared with the loggers' own files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.instrumentation.lightning.test_lightning import (
    Capture,
    capture,  # noqa: F401 # pyright: ignore[reportUnusedImport]
    data,
    instrumentor,  # noqa: F401 # pyright: ignore[reportUnusedImport]
    list_logger,
    make_model,
    make_trainer,
    model_class,
    pl,  # noqa: F401 # pyright: ignore[reportUnusedImport]
)
from tests.support import event_files
from tracelet_otel.instrumentation.tensorboard.instrumentor import TensorBoardInstrumentor
from tracelet_otel.recording.run import Run, RunScope

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("instrumentor", "tensorboard")]

Points = dict[str, list[tuple[int, float]]]


@pytest.fixture
def tensorboard() -> Iterator[None]:
    TensorBoardInstrumentor().instrument(skip_dep_check=True)
    yield
    TensorBoardInstrumentor().uninstrument()


def recorded(capture: Capture) -> Points:  # noqa: F811
    """By tag."""
    found: Points = {}
    for point in capture.points:
        found.setdefault(point.tag, []).append((point.step, point.value))
    return {tag: sorted(points, key=repr) for tag, points in found.items()}


def in_event_files(folder: Path, prefix: str = "") -> Points:
    return {
        prefix + tag: sorted(((point.step, point.value) for point in points), key=repr)
        for tag, points in event_files.points(folder).items()
        if not tag.endswith("hp_metric")  # Lightning's placeholder
    }


def in_csv(folder: Path, prefix: str = "") -> Points:
    found: Points = {}
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for tag, text in row.items():
                if text and tag != "step":
                    found.setdefault(prefix + tag, []).append((int(row["step"]), float(text)))
    return {tag: sorted(points, key=repr) for tag, points in found.items()}


def one_fit(pl: Any, tmp_path: Path, logger: Any, model: Any = None, **options: Any) -> Any:  # noqa: F811
    trainer = make_trainer(pl, tmp_path, logger=logger, max_epochs=1, log_every_n_steps=1, **options)
    trainer.fit(model or make_model(pl, lr=0.1), data(3), data(1))
    return trainer


# -- several trainers ---------------------------------------------------------------------------


def test_each_fold_has_the_folder_of_its_event_files(pl: Any, capture: Capture, tmp_path: Path) -> None:  # noqa: F811
    class Model(model_class(pl)):
        def on_train_end(self) -> None:
            self.logger.log_metrics({"best": 1.0}, step=self.global_step)

    for fold in range(3):
        logger = pl.loggers.TensorBoardLogger(tmp_path / "tb", name=f"fold{fold}")
        trainer = one_fit(pl, tmp_path, logger, Model(lr=fold / 8))
        logger.experiment.add_scalar("direct", fold, 0)
        trainer.test(trainer.lightning_module, data(1), verbose=False)
        logger.experiment.flush()
    first, *others = (tmp_path / "tb" / f"fold{fold}" / "version_0" for fold in range(3))
    expected = in_event_files(first)
    for number, folder in enumerate(others, 1):
        expected |= in_event_files(folder, f"fold{number}/version_0:::/")
    assert recorded(capture) == expected
    assert [tag for tag in expected if tag.endswith("best")] == [
        "best",
        "fold1/version_0:::/best",
        "fold2/version_0:::/best",
    ]
    assert [json.loads(event.payload) for event in capture.of("params")[::2]] == [
        {"lr": 0.0},
        {"fold1/version_0:::/lr": 0.125},
        {"fold2/version_0:::/lr": 0.25},
    ]
    assert len({event.tag for event in capture.of("text")}) == 3


def test_each_fold_has_the_folder_of_its_csv_file(pl: Any, capture: Capture, tmp_path: Path) -> None:  # noqa: F811
    for fold in range(2):
        one_fit(pl, tmp_path, pl.loggers.CSVLogger(tmp_path, name=f"fold{fold}"))
    expected = in_csv(tmp_path / "fold0/version_0")
    expected |= in_csv(tmp_path / "fold1/version_0", "fold1/version_0:::/")
    assert set(recorded(capture)) == set(expected)
    for tag, points in recorded(capture).items():
        assert [step for step, _ in points] == [step for step, _ in expected[tag]]
        assert [value for _, value in points] == pytest.approx([value for _, value in expected[tag]])


def test_trainers_without_a_logger_have_numbers(pl: Any, capture: Capture, tmp_path: Path) -> None:  # noqa: F811
    first = one_fit(pl, tmp_path, False)
    names = set(recorded(capture))
    assert {"train/loss_step", "val_loss_epoch", "epoch"} <= names
    first.test(first.lightning_module, data(1), verbose=False)
    names |= {"test_loss"}
    assert set(recorded(capture)) == names
    capture.points.clear()
    second = one_fit(pl, tmp_path, False)
    second.test(second.lightning_module, data(1), verbose=False)
    assert set(recorded(capture)) == {f"trainer_2:/{name}" for name in names}
    params = [json.loads(event.payload) for event in capture.of("params")]
    assert params == 2 * [{"lr": 0.1}] + 2 * [{"trainer_2:/lr": 0.1}]
    capture.points.clear()
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="third")
    logger.experiment.add_scalar("mine", 1.0, 0)
    one_fit(pl, tmp_path, logger)
    assert set(recorded(capture)) == {f"third/version_0:/{name}" for name in names - {"test_loss"} | {"mine"}}


def test_a_trainer_that_logs_nothing_costs_no_name(pl: Any, capture: Capture, tmp_path: Path) -> None:  # noqa: F811
    make_trainer(pl, tmp_path, fast_dev_run=True).fit(make_model(pl), data())
    make_trainer(pl, tmp_path).predict(make_model(pl), data(1))
    one_fit(pl, tmp_path, pl.loggers.TensorBoardLogger(tmp_path))
    assert "train/loss_step" in recorded(capture)
    assert not [tag for tag in recorded(capture) if ":" in tag]


def test_each_run_has_a_first_trainer(pl: Any, capture: Capture, tmp_path: Path) -> None:  # noqa: F811
    one_fit(pl, tmp_path, False)
    before = capture.written()
    capture.points.clear()
    capture.scope = RunScope(Run())
    one_fit(pl, tmp_path, False)
    assert [key[0] for key in capture.written()] == [key[0] for key in before]


def test_trainers_with_the_same_logger_are_one_writer(pl: Any, capture: Capture, tmp_path: Path) -> None:  # noqa: F811
    for logger in (pl.loggers.CSVLogger(tmp_path), list_logger(pl)):
        capture.points.clear()
        capture.scope = RunScope(Run())
        model = one_fit(pl, tmp_path, logger).lightning_module
        make_trainer(pl, tmp_path, logger=logger).test(model, data(1), verbose=False)
        assert {"test_loss", "train/loss_step"} <= set(recorded(capture))
        assert not [tag for tag in recorded(capture) if ":" in tag]


def test_loggers_without_a_folder_are_told_apart(
    pl: Any,  # noqa: F811
    capture: Capture,  # noqa: F811
    tmp_path: Path,
    database: Path,
) -> None:
    address = f"sqlite:///{database}"
    for name in ("fold0", "fold1", "fold1", None):
        logger = pl.loggers.MLFlowLogger(tracking_uri=address, run_name=name)
        one_fit(pl, tmp_path, logger)
        logger.log_metrics({"last": 1.0})
    tags = [tag for tag in recorded(capture) if "last" in tag]
    assert tags == ["last", "fold1:/last", "fold1_3:/last", "mlflow_4:/last"]
    assert all(points == [(0, 1.0)] for tag, points in recorded(capture).items() if tag in tags)


def test_nothing_of_a_logger_is_touched_that_lightning_does_not_touch(
    pl: Any,  # noqa: F811
    instrumentor: Any,  # noqa: F811
    capture: Capture,  # noqa: F811
    tmp_path: Path,
) -> None:
    def run() -> list[str]:
        touched: list[str] = []

        kind: Any = type(list_logger(pl))

        class Logger(kind):
            name = property(lambda self: touched.append("name"))
            version = property(lambda self: touched.append("version"))
            experiment = property(lambda self: touched.append("experiment"))
            save_dir = property(lambda self: touched.append("save_dir"))

        for _ in range(2):
            one_fit(pl, tmp_path, Logger(), enable_checkpointing=True)
        return touched

    touched = run()
    assert capture.points
    instrumentor.uninstrument()
    assert touched == run()


def test_a_logger_chooses_its_version_when_lightning_asks(
    pl: Any,  # noqa: F811
    capture: Capture,  # noqa: F811
    tmp_path: Path,
) -> None:
    chosen: list[Any] = []

    class Model(model_class(pl)):
        def configure_callbacks(self) -> Any:  # before Lightning makes the experiment
            chosen.append(self.logger._version)
            return []

    logger = pl.loggers.TensorBoardLogger(tmp_path)
    one_fit(pl, tmp_path, logger, Model(), enable_model_summary=True)
    assert chosen == [None]
    assert logger._version == 0


def test_a_prefix_is_in_the_tag_as_in_the_file(pl: Any, capture: Capture, tmp_path: Path) -> None:  # noqa: F811
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="a", prefix="student")
    one_fit(pl, tmp_path, logger)
    logger.log_metrics({"last": 2.0}, 9)
    logger.log_hyperparams({"depth": 3}, {"hp/loss": 1.5})
    logger.experiment.flush()
    expected = in_event_files(tmp_path / "a/version_0")
    assert {"student-train/loss_step", "student-last", "student-hp/loss"} <= set(expected)
    assert recorded(capture) == expected
    assert json.loads(capture.of("params")[-1].payload) == {"depth": 3}


@pytest.mark.parametrize("same", [True, False], ids=["names alike", "two callbacks"])
def test_no_checkpoint_takes_anothers_name(
    pl: Any,  # noqa: F811
    capture: Capture,  # noqa: F811
    tmp_path: Path,
    same: bool,
) -> None:
    def callback(folder: str) -> Any:
        # Lightning asks that callbacks of one trainer differ.
        mode = "min" if folder == "a" else "max"
        return pl.callbacks.ModelCheckpoint(tmp_path / folder, "last", save_top_k=-1, mode=mode)

    folds = [[callback("a")], [callback("b")]] if same else [[callback("a"), callback("b")]]
    for number, callbacks in enumerate(folds):
        logger = pl.loggers.TensorBoardLogger(tmp_path, name=f"fold{number}")
        one_fit(pl, tmp_path, logger, enable_checkpointing=True, callbacks=callbacks)
    names = [event.tag for event in capture.of("artifact")]
    assert names == [
        "checkpoints/last.ckpt",
        f"checkpoints/{'fold1/version_0:::' if same else 'b::'}/last.ckpt",
    ]
    assert [event.attributes["tracelet.file.name"] for event in capture.of("artifact")] == names


# -- several loggers of one trainer, called directly --------------------------------------------


def loop_model(pl: Any) -> Any:  # noqa: F811
    class Model(model_class(pl)):
        def on_train_batch_end(self, *args: Any) -> None:
            for logger in self.loggers:
                logger.log_metrics({"by hand": torch.tensor(1.5)}, step=self.global_step)
                logger.log_metrics({"nan": float("nan")}, step=self.global_step)
                logger.log_metrics({"a": torch.tensor(1.0), "b": 0.5 * 1}, step=self.global_step)

    return Model()


def makers(pl: Any, tmp_path: Path) -> list[Callable[[], Any]]:  # noqa: F811
    return [
        lambda: pl.loggers.TensorBoardLogger(tmp_path / "tb"),
        lambda: pl.loggers.CSVLogger(tmp_path / "csv"),
        lambda: pl.loggers.TensorBoardLogger(tmp_path / "more", prefix="other"),
    ]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_loop_over_loggers_is_one_point_for_each(
    pl: Any,  # noqa: F811
    capture: Capture,  # noqa: F811
    tmp_path: Path,
    count: int,
) -> None:
    one_fit(pl, tmp_path, [make() for make in makers(pl, tmp_path)[:count]], loop_model(pl))
    place = "lightning_logs/version_0"
    expected = in_event_files(tmp_path / "tb" / place)
    if count > 1:
        mark = f"csv/{place}::::/"
        others = in_csv(tmp_path / "csv" / place, mark)
        expected |= {mark + tag: others[mark + tag] for tag in ("by hand", "nan", "a", "b")}
    if count > 2:
        mark = f"more/{place}::::/other-"
        others = in_event_files(tmp_path / "more" / place, f"more/{place}::::/")
        expected |= {mark + tag: others[mark + tag] for tag in ("by hand", "nan", "a", "b")}
    assert repr(recorded(capture)) == repr({tag: expected[tag] for tag in recorded(capture)})
    assert set(recorded(capture)) == set(expected)
    assert [step for step, value in expected["nan"] if math.isnan(value)] == [1, 2, 3]


def test_what_only_another_logger_is_handed_is_that_loggers(
    pl: Any,  # noqa: F811
    capture: Capture,  # noqa: F811
    tmp_path: Path,
) -> None:
    class Model(model_class(pl)):
        def on_train_end(self) -> None:
            self.loggers[0].log_metrics({"loss": 1.0}, 1)
            self.loggers[1].log_metrics({"loss": 1.0}, 1)
            self.loggers[1].log_metrics({"loss": 2.0}, 1)
            self.loggers[2].log_metrics({"loss": 1.0}, 1)

    # Two of them write into one folder.
    first = pl.loggers.TensorBoardLogger(tmp_path, name="x", version=0)
    one_fit(
        pl,
        tmp_path,
        [first, pl.loggers.CSVLogger(tmp_path, name="x", version=0), list_logger(pl)],
        Model(),
    )
    losses = {tag: points for tag, points in recorded(capture).items() if tag.split("/")[-1] == "loss"}
    assert losses == {
        "loss": [(1, 1.0)],
        "CSVLogger:/loss": [(1, 1.0), (1, 2.0)],
        "list_3:::/loss": [(1, 1.0)],
    }


@pytest.mark.parametrize("kind", ["TensorBoardLogger", "CSVLogger"])
def test_a_step_that_is_not_given_is_the_loggers_own(
    pl: Any,  # noqa: F811
    capture: Capture,  # noqa: F811
    tmp_path: Path,
    kind: str,
) -> None:
    class Model(model_class(pl)):
        def on_train_batch_end(self, *args: Any) -> None:
            self.logger.log_metrics({"mine": self.global_step / 4})

    logger = getattr(pl.loggers, kind)(tmp_path)
    one_fit(pl, tmp_path, logger, Model())
    logger.log_metrics({"after": 1.0})
    logger.save()
    read = in_event_files if kind == "TensorBoardLogger" else in_csv
    expected, found = read(Path(logger.log_dir)), recorded(capture)
    for tag in ("mine", "after"):
        assert found[tag] == expected[tag]


def test_what_loggers_are_handed_before_a_fit_is_recorded(
    pl: Any,  # noqa: F811
    capture: Capture,  # noqa: F811
    tmp_path: Path,
) -> None:
    trainer = make_trainer(pl, tmp_path, logger=pl.loggers.CSVLogger(tmp_path), max_epochs=1)
    for logger in trainer.loggers:
        logger.log_hyperparams({"seed": 1})
        logger.log_metrics({"params": 4.0}, 0)
    trainer.fit(make_model(pl), data(1))
    assert [json.loads(event.payload) for event in capture.of("params")] == [{"seed": 1}]
    assert recorded(capture)["params"] == [(0, 4.0)]
