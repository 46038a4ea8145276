"""Reads MLflow's database back, without MLflow: an independent pair of eyes."""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class StoredPoint(NamedTuple):
    """One metric value as MLflow has it."""

    step: int
    value: float
    timestamp_ms: int


class StoredRun(NamedTuple):
    """One run as MLflow has it."""

    id: str
    name: str
    status: str
    experiment: str
    artifacts: Path


def runs(database: Path) -> list[StoredRun]:
    """Every run, oldest first; none if there is no database."""
    if not database.exists():
        return []
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "select run_uuid, r.name, status, e.name, artifact_uri from runs r "
            "join experiments e using (experiment_id) order by start_time"
        ).fetchall()
    connection.close()
    return [
        StoredRun(run_id, name, status, experiment, Path(uri.removeprefix("file://")))
        for run_id, name, status, experiment, uri in rows
    ]


def points(database: Path, run_id: str | None = None) -> dict[str, list[StoredPoint]]:
    """Every metric value by key, in the order in which it was inserted."""
    found: defaultdict[str, list[StoredPoint]] = defaultdict(list)
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "select key, step, value, is_nan, timestamp from metrics "
            "where ? is null or run_uuid = ? order by rowid",
            (run_id, run_id),
        )
        for key, step, value, is_nan, timestamp in rows:
            found[key].append(StoredPoint(step, math.nan if is_nan else value, timestamp))
    connection.close()
    return dict(found)


def params(database: Path, run_id: str | None = None) -> dict[str, str]:
    """Every parameter."""
    return _pairs(database, "params", run_id)


def tags(database: Path, run_id: str | None = None) -> dict[str, str]:
    """Every run tag."""
    return _pairs(database, "tags", run_id)


def _pairs(database: Path, table: str, run_id: str | None) -> dict[str, str]:
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            f"select key, value from {table} where ? is null or run_uuid = ?", (run_id, run_id)
        ).fetchall()
    connection.close()
    return dict(rows)


def artifacts(run: StoredRun) -> dict[str, bytes]:
    """Every artifact by its path in the run."""
    files = (path for path in run.artifacts.rglob("*") if path.is_file())
    return {path.relative_to(run.artifacts).as_posix(): path.read_bytes() for path in files}
