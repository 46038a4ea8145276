"""The time from the last call until all values are in the tracker, compared with each tracker's own client.

    python benchmarks/trackers.py [--points 20000] [--rounds 5] [--trackers mlflow aim] [--json results.json]

For each tracker two scripts log the same points, each in a process and a backend of its own. One uses
``tracelet_otel.log_scalar``; its time runs from the last call to the end of ``shutdown()``. The other uses
the fastest public calls of the tracker's client; its time is that of all calls, until the client reports that
everything is written. The result is the median of the rounds' ratios. MLflow is a SQLite file, W&B is
offline, AIM is a local repository, and ClearML is the server of the tests, in the process that measures.

So that the two sides do the same work:

- Both import their client, open their run and log a point before the clock starts, and then wait for
  ``SETTLE_S``, so that the client's own work after its start is in neither time.
- Our pipeline's interval is longer than the loop, so that the whole work is left after the loop.
- The points are made before the clock starts; W&B's client gets a dict for each step, as its API needs.
- W&B's client has the settings that our runs have: no console, code, git, statistics or metadata.
- ClearML's client queues all points before it sends: with its own default, 100, it sleeps 0.1 s for each
  hundred points. Its clock ends with ``flush()``, since ``close()`` waits 5 to 11 s without need. All other
  clocks end when the client returns; ours includes the end of its processes and threads.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import _bench
from _bench import TRACKERS, Point, log_all

from tests.support.clearml_server import ClearMLServer

SETTLE_S = 1.0


def ours(tracker: str, points: int) -> float:
    """Seconds from the last call until everything is in the tracker."""
    import tracelet_otel

    _bench.start(backends=[tracker], run_name="ours", shutdown_timeout=120, export_interval=600_000)
    logged = _bench.make_points(points)
    time.sleep(SETTLE_S)
    log_all(tracelet_otel.log_scalar, logged)
    return _bench.seconds(tracelet_otel.shutdown)


def log_batches(client: Any, run: str, points: Sequence[Point]) -> None:
    """Writes the points with the fewest requests: one may have a thousand."""
    from mlflow.entities import Metric

    for start in range(0, len(points), 1000):
        now = time.time_ns() // 1_000_000
        batch = [Metric(tag, value, now, step) for tag, value, step in points[start : start + 1000]]
        client.log_batch(run, metrics=batch)


def theirs_mlflow(points: list[Point]) -> Callable[[], None]:
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.create_run("0").info.run_id
    log_batches(client, run, [Point("warm-up", 0.0, 0)])

    def work() -> None:
        log_batches(client, run, points)
        client.set_terminated(run)

    return work


def quiet_wandb() -> Any:
    """The settings that our runs have."""
    import wandb

    return wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def theirs_wandb(points: list[Point]) -> Callable[[], None]:
    import wandb

    run = wandb.init(mode="offline", settings=quiet_wandb())
    run.log({"warm-up": 0.0}, step=0)
    steps = [
        (step, {tag: value for tag, value, _ in group})
        for step, group in groupby(points, key=attrgetter("step"))
    ]

    def work() -> None:
        for step, values in steps:
            run.log(values, step=step)
        run.finish()

    return work


def theirs_aim(points: list[Point]) -> Callable[[], None]:
    import aim

    run = aim.Run(system_tracking_interval=None, capture_terminal_logs=False)
    run.track(0.0, name="warm-up", step=0)

    def work() -> None:
        for tag, value, step in points:
            run.track(value, name=tag, step=step)
        run.close()

    return work


def theirs_clearml(points: list[Point]) -> Callable[[], None]:
    from clearml import Task

    task = Task.init("benchmark", "theirs", auto_connect_frameworks=False, auto_resource_monitoring=False)
    logger = task.get_logger()
    logger.report_scalar("group", "warm-up", 0.0, 0)
    task.flush(wait_for_uploads=True)

    def work() -> None:
        for tag, value, step in points:
            logger.report_scalar("group", tag, value, step)
        task.flush(wait_for_uploads=True)  # the interpreter's exit closes the task

    return work


THEIRS = {"mlflow": theirs_mlflow, "wandb": theirs_wandb, "aim": theirs_aim, "clearml": theirs_clearml}


def child(tracker: str, side: str, points: int) -> float:
    """The seconds of one side of one round."""
    if side == "ours":
        return ours(tracker, points)
    work = THEIRS[tracker](_bench.make_points(points))
    time.sleep(SETTLE_S)
    return _bench.seconds(work)


def prepare(tracker: str, folder: Path, points: int) -> dict[str, str]:
    """What a tracker's own client needs before it runs there; the variables that it needs then."""
    if tracker == "aim":
        _bench.run("new repository", ["-c", "import aim; aim.Repo.from_path('.', init=True)"], folder)
    if tracker != "clearml":
        return {}
    configuration = folder / "clearml.conf"
    configuration.write_text(
        f"sdk {{ development {{ worker {{ report_event_flush_threshold: {points} }} }} }}\n"
    )
    return {"CLEARML_CONFIG_FILE": str(configuration)}


def measure(tracker: str, side: str, points: int, variables: dict[str, str]) -> float:
    """Runs one side in a new process and a new folder."""
    with _bench.new_folder() as folder:
        needed = prepare(tracker, folder, points) if side == "theirs" else {}
        taken, printed = _bench.call(child, tracker, side, points, folder=folder, **variables, **needed)
        if side == "ours" and "delivered all" not in printed:
            sys.exit(f"{tracker}: not everything was delivered\n{printed}")
        return taken


def main() -> None:
    parser = _bench.make_parser(__doc__, points=20_000, rounds=5)
    parser.add_argument("--trackers", nargs="+", choices=TRACKERS, default=TRACKERS)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    is_slower = False
    print(f"{options.points:,} points, {options.rounds} rounds, medians; microseconds a point")
    print(f"{'tracker':<10}{'ours':>8}{'theirs':>10}{'ratio':>8}   range")
    with closing(ClearMLServer()) as server:
        for tracker in options.trackers:
            pairs = [
                [measure(tracker, side, options.points, server.variables()) for side in ("ours", "theirs")]
                for _ in range(options.rounds)
            ]
            ratios = sorted(mine / other for mine, other in pairs)
            mine, other = (
                statistics.median(column) / options.points * 1e6 for column in zip(*pairs, strict=True)
            )
            ratio = statistics.median(ratios)
            print(
                f"{tracker:<10}{mine:>8.1f}{other:>10.1f}{ratio:>8.2f}   {ratios[0]:.2f}-{ratios[-1]:.2f}",
                flush=True,
            )
            is_slower |= ratio > 1.0
            figures[tracker] = {"ours_us": mine, "theirs_us": other, "ratios": ratios}
    _bench.write_json(options, figures)
    sys.exit(is_slower)


if __name__ == "__main__":
    main()
