"""The ways from a training script to a tracker that ``peers.py`` compares, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import trackers
from _bench import TRACKERS, Cost, Point, log_all, make_points, medians, seconds, start, timed

BLOCK = 500
"""Calls that are timed as one."""
WARM_UP = 2_000
"""Calls before those that are timed."""

Finish = Callable[[], object]
"""Makes the points durable."""
Started = tuple[Callable[[], object], Finish | None]
"""A function that logs the points, and what makes them durable; None if the first does both."""


# -- ways that hook into SummaryWriter ---------------------------------------------------------------------
def _ours(tracker: str) -> Finish:
    import tracelet_otel

    start(backends=[tracker], run_name="ours", shutdown_timeout=300)
    return tracelet_otel.shutdown


def _mlflow_autolog() -> Finish:
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


def _wandb_sync() -> Finish:
    import wandb

    return wandb.init(mode="offline", sync_tensorboard=True, settings=trackers.quiet_wandb()).finish


def _clearml_hook() -> Finish:
    from clearml import Task

    task = Task.init("benchmark", "theirs", auto_resource_monitoring=False)
    return partial(task.flush, wait_for_uploads=True)


# -- ways that the script calls ----------------------------------------------------------------------------
def _log_scalar(tracker: str, points: list[Point]) -> Started:
    import tracelet_otel

    finish = _ours(tracker)
    return partial(log_all, tracelet_otel.log_scalar, points), finish


def _log_metric(points: list[Point]) -> Started:
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.create_run("0").info.run_id
    client.log_metric(run, "warm-up", 0.0, step=0)

    def calls() -> None:
        for tag, value, step in points:
            client.log_metric(run, tag, value, step=step)

    return calls, partial(client.set_terminated, run)


def _gauge_set(points: list[Point]) -> Started:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    gauge = provider.get_meter("bare").create_gauge("training.scalar")
    attributes = {tag: {"tracelet.tag": tag, "tracelet.run.id": "0" * 32} for tag, _, _ in points}

    def calls() -> None:
        for tag, value, _ in points:
            gauge.set(value, attributes[tag])

    return calls, provider.shutdown


def _client(tracker: str, points: list[Point]) -> Started:
    return trackers.THEIRS[tracker](points), None


class Way(NamedTuple):
    """One way."""

    tracker: str
    """Empty for a way that does not lead to a tracker."""
    name: str
    hook: Callable[[], Finish] | None = None
    """Starts to get the values of a script that only calls ``SummaryWriter.add_scalar``."""
    direct: Callable[[list[Point]], Started] | None = None
    """Prepares what a script calls itself."""
    is_ours: bool = False
    reads_file: bool = False
    """The hook does not change the call, but reads the event file."""

    @property
    def key(self) -> str:
        """Its name in figures and on the command line."""
        return f"{self.tracker}: {self.name}" if self.tracker else self.name

    @property
    def hooks_call(self) -> bool:
        return self.hook is not None and not self.reads_file


def _our_ways(tracker: str) -> tuple[Way, Way]:
    return (
        Way(tracker, "tracelet-otel, add_scalar", hook=partial(_ours, tracker), is_ours=True),
        Way(tracker, "tracelet-otel, log_scalar", direct=partial(_log_scalar, tracker), is_ours=True),
    )


WAYS = (
    Way("", "SummaryWriter.add_scalar"),
    Way("", "Gauge.set", direct=_gauge_set),
    *(way for tracker in TRACKERS for way in _our_ways(tracker)),
    Way("mlflow", "mlflow.pytorch.autolog", hook=_mlflow_autolog),
    Way("mlflow", "MlflowClient.log_batch", direct=partial(_client, "mlflow")),
    Way("mlflow", "MlflowClient.log_metric", direct=_log_metric),
    Way("wandb", "wandb.init(sync_tensorboard)", hook=_wandb_sync, reads_file=True),
    Way("wandb", "Run.log", direct=partial(_client, "wandb")),
    Way("aim", "Run.track", direct=partial(_client, "aim")),
    Way("clearml", "Task.init", hook=_clearml_hook),
    Way("clearml", "Logger.report_scalar", direct=partial(_client, "clearml")),
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


def _add_all(writer: Any, points: list[Point]) -> Cost:
    """Logs the points. The thread's time is the median of the blocks: two such times are subtracted later,
    and single calls of a hook that cost a lot shall not count.
    """
    blocks: list[Cost] = []

    def calls() -> None:
        for first in range(0, len(points), BLOCK):
            block = points[first : first + BLOCK]
            blocks.append(timed(partial(log_all, writer.add_scalar, block), len(block)))

    whole = timed(calls, len(points))
    return whole._replace(thread=medians(blocks).thread)


def _hooked(way: Way, points: list[Point]) -> Measured:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter("plain") as writer:
        _add_all(writer, points[:WARM_UP])
        plain = _add_all(writer, points)
    if way.hook is None:
        return Measured(*plain, None, plain.wall * len(points) / 1e6)
    finish = way.hook()
    writer = SummaryWriter("logs")
    writer.add_scalar("warm-up", 0.0, 0)
    time.sleep(trackers.SETTLE_S)
    first = time.perf_counter()
    hooked = _add_all(writer, points)
    last = time.perf_counter()
    writer.close()
    finish()
    end = time.perf_counter()
    return Measured(*hooked.minus(plain), end - last, end - first)


def _direct(started: Started, points: int) -> Measured:
    calls, finish = started
    time.sleep(trackers.SETTLE_S)
    cost = timed(calls, points)
    after = seconds(finish) if finish else None
    return Measured(*cost, after, cost.wall * points / 1e6 + (after or 0))


def measure(key: str, count: int) -> dict[str, float | None]:
    """One round of one way, in the current folder."""
    (way,) = (way for way in WAYS if way.key == key)
    points = make_points(count)
    measured = _direct(way.direct(points), count) if way.direct else _hooked(way, points)
    return measured._asdict()
