"""Reads the points of one process back from its tracker, and counts those that are exactly as logged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from struct import pack
from typing import Any

from _bench import Point

from tests.support import mlflow_content, wandb_subject
from tests.support.aim_subject import AimSubject
from tests.support.clearml_subject import ClearMLSubject

Found = tuple[str, int, float]
"""Tag, step and value."""


def share(points: Iterable[Point], found: Iterable[Found]) -> float:
    """Percent of the points that are there, with tag, step and value.

    Names are compared by their last part, since each client puts something of its own before it. Values are
    compared as float32, since a ``SummaryWriter`` hands on float32.
    """
    wanted = {_comparable(tag, step, value) for tag, value, step in points}
    return 100 * len(wanted.intersection(_comparable(*point) for point in found)) / len(wanted)


def _comparable(tag: str, step: int, value: float) -> tuple[str, int, bytes]:
    return (
        tag.rsplit("/", 1)[-1],
        step,
        pack("<f", value) if math.isfinite(value) else repr(value).encode(),
    )


def read(tracker: str, folder: Path, clearml: ClearMLSubject | None) -> Iterator[Found]:
    """The points that a tracker has of the process in that folder."""
    if tracker == "wandb":
        yield from _wandb(folder)
        return
    for run in _runs(tracker, folder, clearml):
        for tag, points in run.items():
            for point in points:
                yield tag, point.step, point.value


def _runs(
    tracker: str, folder: Path, clearml: ClearMLSubject | None
) -> Iterator[Mapping[str, Iterable[Any]]]:
    if clearml:
        yield from map(clearml.points, list(clearml.server.store.tasks))
    elif tracker == "mlflow":
        yield mlflow_content.points(folder / "mlflow.db")
    elif tracker == "aim":
        from aim import Repo

        subject = AimSubject(folder)
        subject.folder = folder
        yield from map(subject.points, Repo(str(folder)).list_all_runs())


def _wandb(folder: Path) -> Iterator[Found]:
    for log in folder.glob("wandb/*run-*/run-*.wandb"):
        for row in wandb_subject.rows(log):
            step = row.get("global_step", row.get("_step"))
            for tag, value in _flat(row):
                if isinstance(step, int) and isinstance(value, (int, float)):
                    yield tag, step, float(value)


def _flat(row: dict[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield key, value
