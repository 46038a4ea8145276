"""The ways from a training script to a tracker that ``peers.py`` compares, each in a process of its own."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import trackers

Points = list[tuple[str, float, int]]
"""Tag, value and step of each."""

BLOCK = 500
"""Calls that are timed as one."""
WARM_UP = 2_000
"""Calls before those that are timed."""


class Way(NamedTuple):
    """One way."""

    tracker: str
    """Empty for a way that does not lead to a tracker."""
    name: str
    is_ours: bool = False
    hooks: str = ""
    """How it gets the values of a script that only calls ``SummaryWriter.add_scalar``: ``call``, it hooks the
    call; ``file``, it reads the event file. Empty if the script calls it directly."""

    @property
    def key(self) -> str:
        """Its name in figures and on the command line."""
        return f"{self.tracker}: {self.name}" if self.tracker else self.name


PLAIN = Way("", "SummaryWriter.add_scalar")
GAUGE = Way("", "Gauge.set")
WAYS = (
    PLAIN,
    GAUGE,
    *(
        way
        for tracker in trackers.TRACKERS
        for way in (
            Way(tracker, "tracelet-otel, add_scalar", is_ours=True, hooks="call"),
            Way(tracker, "tracelet-otel, log_scalar", is_ours=True),
        )
    ),
    Way("mlflow", "mlflow.pytorch.autolog", hooks="call"),
    Way("mlflow", "MlflowClient.log_batch"),
    Way("mlflow", "MlflowClient.log_metric"),
    Way("wandb", "wandb.init(sync_tensorboard)", hooks="file"),
    Way("wandb", "Run.log"),
    Way("aim", "Run.track"),
    Way("clearml", "Task.init", hooks="call"),
    Way("clearml", "Logger.report_scalar"),
)


class Measured(NamedTuple):
    """What one process measured; the times of a call are in microseconds."""

    thread_us: float
    """CPU time of the training thread: what a hook adds to ``add_scalar``, or what the calls take. For other
    clients it includes the end of the run."""
    wall_us: float
    process_us: float
    """CPU time of all threads of that process."""
    after_s: float | None
    """Seconds from the last call until the client reports that everything is written; None where this
    wait cannot be separated from the calls."""
    all_s: float
    """Seconds from the first call to the same moment."""


def make_points(count: int) -> Points:
    """The points that all ways log."""
    return [(tag, value, step) for step, values in trackers.rows(count) for tag, value in values.items()]


class _Clock:
    """The times since it was made."""

    def __init__(self) -> None:
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return time.thread_time(), time.perf_counter(), time.process_time()

    def read(self, calls: int) -> tuple[float, float, float]:
        """Microseconds a call: of the thread, on the wall, of the process."""
        thread, wall, process = (
            (now - then) / calls * 1e6 for now, then in zip(self._now(), self._began, strict=True)
        )
        return thread, wall, process


def _add_all(writer: Any, points: Points) -> tuple[float, float, float]:
    """Logs the points; the times of a call. The thread's time is the median of the blocks: two such times
    are subtracted later, and single calls of a hook that cost a lot shall not count.
    """
    whole, blocks = _Clock(), list[float]()
    for start in range(0, len(points), BLOCK):
        block = points[start : start + BLOCK]
        clock = _Clock()
        for tag, value, step in block:
            writer.add_scalar(tag, value, step)
        blocks.append(clock.read(len(block))[0])
    _, wall, process = whole.read(len(points))
    return statistics.median(blocks), wall, process


# -- ways that hook into SummaryWriter: each returns the function that makes its points durable ----------
def _ours(tracker: str) -> Callable[[], None]:
    import tracelet_otel

    tracelet_otel.configure(backends=[tracker], run_name="ours", shutdown_timeout=300)
    tracelet_otel.log_scalar("warm-up", 0.0, 0)  # the client's import and connection
    assert tracelet_otel.flush(300)
    return tracelet_otel.shutdown


def _mlflow_autolog() -> Callable[[], None]:
    import mlflow
    from mlflow import pytorch
    from mlflow.utils.autologging_utils import metrics_queue

    pytorch.autolog(log_every_n_step=1)
    mlflow.start_run()

    def finish() -> None:
        # MLflow does this once, at the interpreter's exit, and skips it while a thread does it.
        while metrics_queue._metrics_queue:
            metrics_queue.flush_metrics_queue()
        with metrics_queue._metrics_queue_lock:
            mlflow.end_run()

    return finish


def _wandb_sync() -> Callable[[], None]:
    import wandb

    return wandb.init(mode="offline", sync_tensorboard=True, settings=trackers.quiet_wandb()).finish


def _clearml_hook() -> Callable[[], None]:
    from clearml import Task

    task = Task.init("benchmark", "theirs", auto_resource_monitoring=False)
    return lambda: (task.flush(wait_for_uploads=True), None)[1]


def _hook(way: Way) -> Callable[[], None]:
    if way.is_ours:
        return _ours(way.tracker)
    return {"mlflow": _mlflow_autolog, "wandb": _wandb_sync, "clearml": _clearml_hook}[way.tracker]()


def _hooked(way: Way, points: Points) -> Measured:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter("plain") as writer:
        _add_all(writer, points[:WARM_UP])
        plain = _add_all(writer, points)
    if way is PLAIN:
        return Measured(*plain, None, plain[1] * len(points) / 1e6)
    finish = _hook(way)
    writer = SummaryWriter("logs")
    writer.add_scalar("warm-up", 0.0, 0)
    time.sleep(trackers.SETTLE_S)
    first = time.perf_counter()
    hooked = _add_all(writer, points)
    last = time.perf_counter()
    writer.close()
    finish()
    end = time.perf_counter()
    thread, wall, process = (with_it - without for with_it, without in zip(hooked, plain, strict=True))
    return Measured(thread, wall, process, end - last, end - first)


# -- ways that the script calls: the calls, and what makes their points durable ---------------------------
def _log_scalar(tracker: str, points: Points) -> tuple[Callable[[], None], Callable[[], None]]:
    import tracelet_otel

    finish = _ours(tracker)

    def calls() -> None:
        for tag, value, step in points:
            tracelet_otel.log_scalar(tag, value, step)

    return calls, finish


def _log_metric(points: Points) -> tuple[Callable[[], None], Callable[[], None]]:
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.create_run("0").info.run_id
    client.log_metric(run, "warm-up", 0.0, step=0)

    def calls() -> None:
        for tag, value, step in points:
            client.log_metric(run, tag, value, step=step)

    return calls, lambda: client.set_terminated(run)


def _gauge_set(points: Points) -> tuple[Callable[[], None], Callable[[], None]]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    gauge = provider.get_meter("bare").create_gauge("training.scalar")
    attributes = {tag: {"tracelet.tag": tag, "tracelet.run.id": "0" * 32} for tag, _, _ in points}

    def calls() -> None:
        for tag, value, _ in points:
            gauge.set(value, attributes[tag])

    return calls, provider.shutdown


def _direct(way: Way, points: Points) -> Measured:
    if way.is_ours:
        calls, finish = _log_scalar(way.tracker, points)
    elif way is GAUGE:
        calls, finish = _gauge_set(points)
    elif way.name == "MlflowClient.log_metric":
        calls, finish = _log_metric(points)
    else:
        calls, finish = trackers.THEIRS[way.tracker](len(points)), _nothing  # both in one
    time.sleep(trackers.SETTLE_S)
    first, clock = time.perf_counter(), _Clock()
    calls()
    costs = clock.read(len(points))
    last = time.perf_counter()
    finish()
    end = time.perf_counter()
    return Measured(*costs, None if finish is _nothing else end - last, end - first)


def _nothing() -> None: ...


def main(key: str, count: int) -> None:
    """One round of one way, in the current folder; its figures go to ``figures.json``."""
    (way,) = (way for way in WAYS if way.key == key)
    measure = _hooked if way.hooks or way is PLAIN else _direct
    figures = measure(way, make_points(count))
    Path("figures.json").write_text(json.dumps(figures._asdict()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
