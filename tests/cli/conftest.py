"""Spools and event files that real scripts wrote, once a session, and trackers to deliver them to."""

from __future__ import annotations

import importlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from tests.support.scripts import run_script
from tests.support.subject import Subject
from tracelet_otel.cli.main import app
from tracelet_otel_exporters.mlflow import runs as mlflow_runs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # as tests/exporters/conftest.py
    import mlflow.store.tracking.sqlalchemy_store  # pyright: ignore[reportUnusedImport]  # noqa: F401

LIBRARIES = {"torch": "torch.utils.tensorboard", "tensorboardX": "tensorboardX"}

EVERYTHING = """
import sys
import numpy as np
from {library} import SummaryWriter
writer = SummaryWriter("logs")
for step in range(300):
    writer.add_scalar("train/loss", 1 / (step + 3), step, walltime=1_700_000_000 + step / 8)
for number, value in enumerate((float("nan"), 1.5, float("inf"), 2.5, float("-inf"), float("nan"))):
    writer.add_scalar("edge", value, 3, walltime=1_700_000_100 + number)  # MLflow merges equal milliseconds
writer.add_scalars("parts/all", {{"a": 1.0, "b": 2.0}}, 1)
writer.add_histogram("weights", np.arange(100.0), 2)
writer.add_image("picture", np.full((3, 4, 4), 100, np.uint8), 1)
writer.add_text("note", "hello", 1)
writer.add_hparams({{"lr": 0.1, "name": "x", "api_key": "canary"}}, {{"acc": 0.5}})
writer.add_pr_curve("curve", np.array([0, 1, 1]), np.array([0.1, 0.9, 0.8]), 1)
writer.add_embedding(np.eye(3), metadata=["a", "b", "c"], tag="space", global_step=7)
writer.add_audio("sound", np.zeros({sound}, np.float32), 1)
writer.close()
"""
POINTS = 300 + 6 + 2 + 1


class Logged(NamedTuple):
    """What a script left."""

    folder: Path
    """With its event files in ``logs``."""
    spool: Path


def _logged(folder: Path, library: str) -> Logged:
    variables = {"OTEL_METRICS_EXPORTER": "file", "XDG_STATE_HOME": str(folder / "state")}
    sound = (1, 1000) if library == "torch" else (1000, 1)
    code = EVERYTHING.format(library=LIBRARIES[library], sound=sound)
    done = run_script(folder, code, variables={**variables, "TRACELET_RUN_NAME": "live"})
    assert done.returncode == 0, done.stderr
    (spool,) = (folder / "state" / "tracelet-otel" / "spool").glob("*/file")
    return Logged(folder, spool)


@pytest.fixture(scope="session", params=LIBRARIES)
def logged_by_each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """What each library's writer left."""
    if request.param == "torch":
        return request.getfixturevalue("_logged_once")
    return _logged(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def _logged_once(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    return _logged(tmp_path_factory.mktemp("torch"), "torch")


@pytest.fixture
def logged(_logged_once: Logged, tmp_path: Path) -> Logged:
    """A copy, in the test's own state folder, of what torch's writer left."""
    shutil.copytree(_logged_once.folder / "state", tmp_path / "state", dirs_exist_ok=True)
    shutil.copytree(_logged_once.folder / "logs", tmp_path / "logs")
    return Logged(tmp_path, tmp_path / _logged_once.spool.relative_to(_logged_once.folder))


class Backend(NamedTuple):
    """A tracker, and how the command line names it."""

    name: str
    subject: Subject
    arguments: list[str]


def _backend(name: str, folder: Path, empty_database: Path) -> Backend:
    if name == "mlflow":
        shutil.copy(empty_database, folder / "mlflow.db")
    subject: Any = importlib.import_module(f"tests.support.{name}_subject").make_subject(folder)
    options = {
        "mlflow": {"tracking_uri": f"sqlite:///{folder}/mlflow.db"},
        "aim": {"repo": str(folder / "repository")},
        "wandb": {"mode": "offline", "dir": str(folder)},
        "clearml": {"config_file": str(folder / "clearml.conf")},
    }[name]
    arguments = ["--backend", name]
    for key, value in options.items():
        arguments += ["--option", f"{name}.{key}={value}"]
    return Backend(name, subject, arguments)


@pytest.fixture(params=["mlflow", "wandb", "aim", "clearml"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, empty_database: Path) -> Iterator[Backend]:
    """Each tracker, empty."""
    folder = tmp_path / request.param
    folder.mkdir()
    made = _backend(request.param, folder, empty_database)
    yield made
    made.subject.close()


@pytest.fixture
def mlflow_backend(tmp_path: Path, empty_database: Path) -> Backend:
    """MLflow, empty."""
    (tmp_path / "mlflow").mkdir()
    return _backend("mlflow", tmp_path / "mlflow", empty_database)


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_runs, "SETTLE_SECONDS", 0.0)


class Output(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def tracelet() -> Callable[..., Output]:
    """Runs a command in this process."""

    def run(*arguments: object) -> Output:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Output(done.exit_code, done.stdout, done.stderr)

    return run
