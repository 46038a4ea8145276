"""All four trackers at once, each in a folder of its own below a test's."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.support import mlflow_content
from tests.support.subject import Subject

TRACKERS = ("mlflow", "wandb", "aim", "clearml")


@contextmanager
def subjects_in(folder: Path, database: Path) -> Generator[dict[str, Subject]]:
    """One of each; MLflow's has a copy of the database, and AIM's is an empty repository."""
    made: dict[str, Subject] = {}
    try:
        for name in TRACKERS:
            own = folder / name
            own.mkdir()
            if name == "mlflow":
                shutil.copy(database, own / "mlflow.db")
            support = importlib.import_module(f"tests.support.{name}_subject")
            if name == "aim":
                shutil.copytree(support.empty_repository(), own / "repository" / ".aim")
            made[name] = support.make_subject(own)
        yield made
    finally:
        for subject in made.values():
            subject.close()


def scalars(subject: Subject, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of what a run's script logged, sorted, by name."""
    return {
        tag: sorted((one.step, one.value) for one in points)
        for tag, points in subject.points(run_id).items()
        if not tag.startswith("system/")  # measurements of the machine
    }


def run_ids(folder: Path) -> set[str]:
    """Our ids of every run that MLflow has, below a test's folder."""
    database = folder / "mlflow" / "mlflow.db"
    runs = mlflow_content.runs(database)
    return {mlflow_content.tags(database, run.id)["tracelet.run.id"] for run in runs}


def backends(folder: Path) -> dict[str, dict[str, str]]:
    """The options of the backends that :func:`subjects_in` made."""
    return {
        "mlflow": {"tracking_uri": f"sqlite:///{folder}/mlflow/mlflow.db"},
        "wandb": {"mode": "offline", "dir": str(folder / "wandb")},
        "aim": {"repo": str(folder / "aim" / "repository")},
        "clearml": {"config_file": str(folder / "clearml" / "clearml.conf")},
    }
