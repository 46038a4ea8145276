"""The time from the last call until all values are in the tracker, compared with each tracker's own client.

    python benchmarks/trackers.py [--points 20000] [--rounds 5] [--trackers mlflow aim] [--json results.json]

For each tracker two scripts log the same points, each in a process and a backend of its own. One uses
``tracelet_otel.log_scalar``; its time runs from the last call to the end of ``shutdown()``. The other uses
the fastest public calls of the tracker's client; its time is that of all calls, until the client reports that
everything is written. The result is the ratio of the two in one round, and the median of the rounds. MLflow
is a SQLite file, W&B is offline, AIM is a local repository, and ClearML is the server of the tests, in the
process that measures.

So that the two sides do the same work:

- Both import their client, open their run and log a point before the clock starts, and then wait for
  ``SETTLE_S``, so that the client's own work after its start is in neither time.
- Our pipeline's interval is longer than the loop, so that the whole backlog is left after the loop. With an
  interval that ends within the loop, a part of the work would not be counted.
- The points are made before the clock starts; the other side gets a dict for each step, as its API needs.
- W&B's client has the settings that our runs have: no console, code, git, statistics or metadata.
- ClearML's client queues all points before it sends: with its own default, 100, it sleeps 0.1 s for each
  hundred points. Its clock ends with ``flush()``, since ``close()`` waits 5 to 11 s without need. All other
  clocks end when the client returns; ours includes the end of its processes and threads.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from _processes import run
from _rows import write_json

ROOT = Path(__file__).resolve().parents[1]
TRACKERS = ("mlflow", "wandb", "aim", "clearml")
TAGS = 10
SETTLE_S = 1.0
LONG_INTERVAL_MS = 600_000


def rows(points: int) -> list[tuple[int, dict[str, float]]]:
    """The points, step by step."""
    return [
        (step, {f"group/tag{tag}": (step * 31 + tag) % 997 / 997 for tag in range(TAGS)})
        for step in range(points // TAGS)
    ]


def ours(tracker: str, points: int) -> float:
    """Seconds from the last call until everything is in the tracker."""
    import tracelet_otel

    tracelet_otel.configure(
        backends=[tracker], run_name="ours", shutdown_timeout=120, export_interval=LONG_INTERVAL_MS
    )
    tracelet_otel.log_scalar("warm-up", 0.0, 0)  # the client's import and connection
    assert tracelet_otel.flush(120)
    logged = rows(points)
    time.sleep(SETTLE_S)
    for step, values in logged:
        for tag, value in values.items():
            tracelet_otel.log_scalar(tag, value, step)
    started = time.perf_counter()
    tracelet_otel.shutdown()
    return time.perf_counter() - started


def theirs_mlflow(points: int) -> Callable[[], None]:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient()
    run = client.create_run("0").info.run_id
    client.log_batch(run, metrics=[Metric("warm-up", 0.0, int(time.time() * 1000), 0)])
    logged = rows(points)

    def work() -> None:
        batch: list[Metric] = []
        for step, values in logged:
            now = int(time.time() * 1000)
            batch += [Metric(tag, value, now, step) for tag, value in values.items()]
            if len(batch) == 1000:  # the most that one request may have
                client.log_batch(run, metrics=batch)
                batch = []
        client.log_batch(run, metrics=batch)
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


def theirs_wandb(points: int) -> Callable[[], None]:
    import wandb

    run = wandb.init(mode="offline", settings=quiet_wandb())
    run.log({"warm-up": 0.0}, step=0)
    logged = rows(points)

    def work() -> None:
        for step, values in logged:
            run.log(values, step=step)
        run.finish()

    return work


def theirs_aim(points: int) -> Callable[[], None]:
    import aim

    run = aim.Run(system_tracking_interval=None, capture_terminal_logs=False)
    run.track(0.0, name="warm-up", step=0)
    logged = rows(points)

    def work() -> None:
        for step, values in logged:
            for tag, value in values.items():
                run.track(value, name=tag, step=step)
        run.close()

    return work


def theirs_clearml(points: int) -> Callable[[], None]:
    from clearml import Task

    task = Task.init("benchmark", "theirs", auto_connect_frameworks=False, auto_resource_monitoring=False)
    logger = task.get_logger()
    logger.report_scalar("group", "warm-up", 0.0, 0)
    task.flush(wait_for_uploads=True)
    logged = rows(points)

    def work() -> None:
        for step, values in logged:
            for tag, value in values.items():
                logger.report_scalar("group", tag, value, step)
        task.flush(wait_for_uploads=True)  # the interpreter's exit closes the task

    return work


THEIRS = {"mlflow": theirs_mlflow, "wandb": theirs_wandb, "aim": theirs_aim, "clearml": theirs_clearml}


def child(tracker: str, side: str, points: int) -> None:
    """One side of one round; the seconds go to ``seconds.txt``."""
    if side == "ours":
        seconds = ours(tracker, points)
    else:
        work = THEIRS[tracker](points)
        time.sleep(SETTLE_S)
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
    Path("seconds.txt").write_text(str(seconds), encoding="utf-8")


@contextlib.contextmanager
def clearml_server() -> Generator[dict[str, str]]:
    """The tests' ClearML server, and the variables that lead a client to it."""
    sys.path.insert(0, str(ROOT))
    from tests.support.clearml_server import ClearMLServer

    server = ClearMLServer()
    try:
        yield server.variables()
    finally:
        server.close()


def environment(folder: str, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process whose backends are in this folder."""
    return {
        **os.environ,
        **variables,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "XDG_STATE_HOME": f"{folder}/state",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "environment,system_metrics",
    }


def prepare(tracker: str, folder: str, points: int, variables: dict[str, str]) -> None:
    """What a tracker's own client needs before it runs there; may add to the variables."""
    if tracker == "clearml":
        configuration = Path(folder, "clearml.conf")
        configuration.write_text(
            f"sdk {{ development {{ worker {{ report_event_flush_threshold: {points} }} }} }}\n"
        )
        variables["CLEARML_CONFIG_FILE"] = str(configuration)
    if tracker == "aim":
        run(["-c", "import aim; aim.Repo.from_path('.', init=True)"], folder, variables, "new repository")


def measure(tracker: str, side: str, points: int, variables: dict[str, str]) -> float:
    """Runs one side in a new process and a new folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        inherited = environment(folder, variables)
        if side == "theirs":
            prepare(tracker, folder, points, inherited)
        command = [__file__, "--child", tracker, side, "--points", str(points)]
        printed = run(command, folder, inherited, f"{tracker}, {side}")
        if side == "ours" and "delivered all" not in printed:
            sys.exit(f"{tracker}: not everything was delivered\n{printed}")
        return float(Path(folder, "seconds.txt").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trackers", nargs="+", choices=TRACKERS, default=TRACKERS)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        tracker, side = options.child
        child(tracker, side, options.points)
        return
    figures: dict[str, Any] = {}
    is_slower = False
    print(f"{options.points:,} points, {options.rounds} rounds, medians; microseconds a point")
    print(f"{'tracker':<10}{'ours':>8}{'theirs':>10}{'ratio':>8}   range")
    with clearml_server() as variables:
        for tracker in options.trackers:
            pairs = [
                [measure(tracker, side, options.points, variables) for side in ("ours", "theirs")]
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
    write_json(options.json, figures)
    sys.exit(is_slower)


if __name__ == "__main__":
    main()
