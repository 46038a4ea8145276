"""How soon after the last call every point is in MLflow, for the benchmark hot_path.py."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import _bench
import mlflow
from _bench import TAGS, Cost, Point, Row, log_all, timed
from torch.utils.tensorboard import SummaryWriter
from trackers import log_batches

import tracelet_otel
from tests.support import mlflow_content
from tracelet_otel.instrumentation.tensorboard.instrumentor import TensorBoardInstrumentor


class Delivered(NamedTuple):
    """What one way to MLflow took."""

    loop: float
    """Microseconds a point."""
    rest: Cost
    """From the end of the loop until everything was in MLflow."""


def deliver(uri: str, points: list[Point], log: Callable[[str, float, int], object]) -> Delivered:
    tracelet_otel.configure(backends={"mlflow": {"tracking_uri": uri}}, run_name="hot path")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the line that names the run
            tracelet_otel.log_params({"points": len(points)})
        tracelet_otel.flush()  # connected, and the run exists
        looped = timed(partial(log_all, log, points), len(points))
        flushed = timed(flush, len(points))
    finally:
        with contextlib.redirect_stderr(io.StringIO()):  # the closing lines
            tracelet_otel.shutdown()
        TensorBoardInstrumentor().uninstrument()
    return Delivered(looped.wall, flushed)


def flush() -> None:
    if not tracelet_otel.flush():
        sys.exit("flush() did not deliver everything")


def deliver_batches(uri: str, points: list[Point]) -> Delivered:
    client = mlflow.MlflowClient(uri)
    run_id = client.create_run("0", run_name="hot path").info.run_id
    client.log_param(run_id, "points", len(points))
    return Delivered(0, timed(partial(log_batches, client, run_id, points), len(points)))


def check(database: Path, points: list[Point]) -> None:
    """Ends the program unless the database holds exactly these points, in one run."""
    (run,) = mlflow_content.runs(database)
    stored = mlflow_content.points(database, run.id)
    for tag in TAGS:
        found = sorted((point.step, point.value) for point in stored[tag])
        expected = [(point.step, point.value) for point in points if point.tag == tag]
        if found != expected:
            sys.exit(f"{database}, {tag}: {len(found)} points, not the {len(expected)} that were logged")


def measure_delivery(points: list[Point], repeats: int, folder: Path) -> list[Row]:
    results: dict[str, list[Delivered]] = {"add_scalar": [], "log_batch": [], "log_scalar": []}
    for repeat in range(repeats):
        for name, taken in results.items():
            database = folder / f"{name}-{repeat}.db"
            uri = _bench.make_mlflow(database)
            if name == "log_batch":
                taken.append(deliver_batches(uri, points))
            elif name == "log_scalar":
                taken.append(deliver(uri, points, tracelet_otel.log_scalar))
            else:
                with SummaryWriter(str(folder / f"logs-{repeat}")) as writer:
                    taken.append(deliver(uri, points, writer.add_scalar))
            check(database, points)

    cpus = {name: [result.rest.process for result in taken] for name, taken in results.items()}
    walls = {name: [result.rest.wall for result in taken] for name, taken in results.items()}
    rows = [
        Row("log_batch, CPU", "us", cpus["log_batch"]),
        Row("log_batch, wall", "us", walls["log_batch"]),
    ]
    for name, target in (("add_scalar", 1.0), ("log_scalar", None)):
        rows += [
            Row(f"loop of {name}, wall", "us", [result.loop for result in results[name]]),
            Row(f"after {name}, CPU", "us", cpus[name]),
            Row(f"after {name}, wall", "us", walls[name]),
            Row.ratios(f"after {name} / log_batch, CPU", cpus[name], cpus["log_batch"]),
            Row.ratios(f"after {name} / log_batch, wall", walls[name], walls["log_batch"], target),
        ]
    return rows
