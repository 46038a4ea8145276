"""How soon after the last call every point is in MLflow, for the benchmark hot_path.py."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import mlflow
from _processes import empty_mlflow
from _rows import Row
from _timing import TAGS, Point, Time, ratios, timed
from mlflow.entities import Metric
from torch.utils.tensorboard import SummaryWriter

import tracelet_otel
from tracelet_otel.instrumentation.tensorboard.instrumentor import TensorBoardInstrumentor

BATCH = 1_000


def add_all(writer: SummaryWriter, points: list[Point]) -> None:
    for tag, value, step in points:
        writer.add_scalar(tag, value, step)


def log_all(points: list[Point]) -> None:
    for tag, value, step in points:
        tracelet_otel.log_scalar(tag, value, step)


class Delivered(NamedTuple):
    """What one way to MLflow took."""

    loop: float
    """Microseconds a point."""
    rest: Time
    """From the end of the loop until everything was in MLflow."""


def deliver(uri: str, points: list[Point], loop: Callable[[], None]) -> Delivered:
    tracelet_otel.configure(backends={"mlflow": {"tracking_uri": uri}}, run_name="hot path")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the line that names the run
            tracelet_otel.log_params({"points": len(points)})
        tracelet_otel.flush()  # connected, and the run exists
        looped = timed(loop, len(points))
        flushed = timed(flush, len(points), time.process_time)
    finally:
        with contextlib.redirect_stderr(io.StringIO()):  # the closing lines
            tracelet_otel.shutdown()
        TensorBoardInstrumentor().uninstrument()
    return Delivered(looped.wall, flushed)


def flush() -> None:
    if not tracelet_otel.flush():
        sys.exit("flush() did not deliver everything")


def log_batches(uri: str, points: list[Point]) -> Delivered:
    client = mlflow.MlflowClient(uri)
    run_id = client.create_run("0", run_name="hot path").info.run_id
    client.log_param(run_id, "points", len(points))

    def log() -> None:
        iterator = iter(points)
        while batch := list(islice(iterator, BATCH)):
            now = time.time_ns() // 1_000_000
            client.log_batch(run_id, [Metric(tag, value, now, step) for tag, value, step in batch])

    return Delivered(0, timed(log, len(points), time.process_time))


def check(uri: str, points: list[Point]) -> None:
    """Ends the program unless the database holds exactly these points, in one run."""
    client = mlflow.MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    for tag in TAGS:
        found = client.get_metric_history(run.info.run_id, tag)
        expected = [(point.step, point.value) for point in points if point.tag == tag]
        if sorted((point.step, point.value) for point in found) != expected:
            sys.exit(f"{uri}, {tag}: {len(found)} points, not the {len(expected)} that were logged")


def measure_delivery(points: list[Point], repeats: int, folder: Path) -> list[Row]:
    template = empty_mlflow(folder)
    results: dict[str, list[Delivered]] = {"add_scalar": [], "log_batch": [], "log_scalar": []}
    for repeat in range(repeats):
        for name, taken in results.items():
            database = shutil.copy(template, folder / f"{name}-{repeat}.db")
            uri = f"sqlite:///{database}"
            if name == "log_batch":
                taken.append(log_batches(uri, points))
            elif name == "log_scalar":
                taken.append(deliver(uri, points, lambda: log_all(points)))
            else:
                with SummaryWriter(str(folder / f"logs-{repeat}")) as writer:
                    taken.append(deliver(uri, points, lambda: add_all(writer, points)))
            check(uri, points)

    theirs = [result.rest for result in results["log_batch"]]
    rows = [
        Row("log_batch, CPU", "us", [rest.cpu for rest in theirs]),
        Row("log_batch, wall", "us", [rest.wall for rest in theirs]),
    ]
    for name in ("add_scalar", "log_scalar"):
        ours = results[name]
        walls = [(result.rest.wall, rest.wall) for result, rest in zip(ours, theirs, strict=True)]
        cpus = [(result.rest.cpu, rest.cpu) for result, rest in zip(ours, theirs, strict=True)]
        rows += [
            Row(f"loop of {name}, wall", "us", [result.loop for result in ours]),
            Row(f"after {name}, CPU", "us", [result.rest.cpu for result in ours]),
            Row(f"after {name}, wall", "us", [result.rest.wall for result in ours]),
            ratios(f"after {name} / log_batch, CPU", cpus),
            ratios(f"after {name} / log_batch, wall", walls, 1.0 if name == "add_scalar" else None),
        ]
    return rows
