"""Several trainers and loggers in one run: whose a value is, compared with the loggers' own files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.instrumentation.lightning.test_lightning import (
    Capture,
    capture,  # noqa: F401 # pyright: ignore[reportUnusedImport]
    data,
    instrumentor,  # noqa: F401 # pyright: ignore[reportUnusedImport]
    make_model,
    make_trainer,
    model_class,
    pl,  # noqa: F401 # pyright: ignore[reportUnusedImport]
)
from tests.support import event_files
from tracelet_otel.instrumentation.tensorboard.instrumentor import TensorBoardInstrumentor

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("instrumentor", "tensorboard")]

Points = dict[str, list[tuple[int, float]]]


@pytest.fixture
def tensorboard() -> Iterator[None]:
    TensorBoardInstrumentor().instrument(skip_dep_check=True)
    yield
    TensorBoardInstrumentor().uninstrument()


def recorded(capture: Capture) -> Points:  # noqa: F811
    """By tag, without what only the trainer's ``hp_metric`` has as a place to be."""
    found: Points = {}
    for point in capture.points:
        found.setdefault(point.tag, []).append((point.step, point.value))
    return {tag: sorted(points, key=repr) for tag, points in found.items()}


def in_event_files(folder: Path, prefix: str = "") -> Points:
    return {
        prefix + tag: sorted(((point.step, point.value) for point in points), key=repr)
        for tag, points in event_files.points(folder).items()
        if tag != "hp_metric"
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
