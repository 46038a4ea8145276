"""Reads the points of one process back from its tracker, and counts those that are exactly as logged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from struct import pack

from _peers import Points

from tests.support import mlflow_content, wandb_subject
from tests.support.aim_subject import AimSubject
from tests.support.clearml_subject import ClearMLSubject

Found = Iterable[tuple[str, int, float]]
"""Tag, step and value of each."""


def share(points: Points, found: Found) -> float:
    """Percent of the points that are there, with tag, step and value.

    Names are compared by their last part, since each client puts something of its own before it. Values are
    compared as float32, since a ``SummaryWriter`` hands on float32.
    """
    wanted = {(_last(tag), step, _float32(value)) for tag, value, step in points}
    there = {(_last(tag), step, _float32(value)) for tag, step, value in found}
    return 100 * len(wanted & there) / len(wanted)


def _last(tag: str) -> str:
    return tag.rsplit("/", 1)[-1]


def _float32(value: float) -> bytes:
    return pack("<f", value) if math.isfinite(value) else repr(value).encode()


def mlflow(folder: Path) -> Found:
    """From its database."""
    for tag, points in mlflow_content.points(folder / "mlflow.db").items():
        for point in points:
            yield tag, point.step, point.value


def wandb(folder: Path) -> Found:
    """From the logs of its runs."""
    for log in folder.glob("wandb/*run-*/run-*.wandb"):
        for row in wandb_subject.rows(log):
            step = row.get("global_step", row.get("_step"))
            for tag, value in _flat(row):
                if isinstance(step, int) and isinstance(value, (int, float)):
                    yield tag, step, float(value)


def aim(folder: Path) -> Found:
    """From its repository."""
    from aim import Repo

    subject = AimSubject(folder)
    subject.folder = folder
    for run in Repo(str(folder)).list_all_runs():
        for tag, points in subject.points(run).items():
            for point in points:
                yield tag, point.step, point.value


def clearml(subject: ClearMLSubject) -> Found:
    """From the server's store."""
    for task in list(subject.server.store.tasks):
        for tag, points in subject.points(task).items():
            for point in points:
                yield tag, point.step, point.value


def _flat(row: dict[str, object]) -> Iterable[tuple[str, object]]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield key, value
