"""What the agent costs training, compared with trackers' clients in the training process.

    python benchmarks/agent.py [--points 50000] [--rounds 5] [--json results.json]

Prints one table, each figure as the median of the rounds with the lowest and the highest; exits with 1 if a
median misses its target. Each side runs in a process of its own, in turns, with MLflow (SQLite) as the
backend. Its client is imported, and the agent is started, before the clock starts.

thread, call        CPU time of the training thread for a call of `log_scalar`, with `isolation="thread"`
process, call       the same with the agent
process / thread    the ratio of the two in one round
all threads         CPU time of the whole training process for a point with the agent: the call, collection,
                    encoding and hand-over, from the first call until the agent has the last point. The target
                    is in microseconds, so it depends on the machine
in a script         the same with a hundred steps a second and ten metrics a step. The thread sleeps between
                    the steps, so collections and requests are small
exit, thread        seconds that `shutdown()` takes while MLflow still has to write the points
exit, process       the same with the agent and a `shutdown_timeout` of 1 s; the agent delivers the rest

At the end all points are read back; if one is missing, the program ends with an error.
"""

from __future__ import annotations

import os
import sys
import time

import _bench

from tests.support import mlflow_content
from tracelet_otel.settings import Isolation

SCRIPT_STEPS = 500


def child(isolation: Isolation, points: int) -> dict[str, float]:
    """The figures of one process."""
    import tracelet_otel
    from tracelet_otel.agent import delivery as agent_delivery
    from tracelet_otel.session import process

    agent_delivery._CONTAINERS = ()  # also where this machine is a container
    os.environ.pop("SLURM_JOB_ID", None)
    seconds = 1.0 if isolation == "process" else 120.0
    _bench.start(backends=["mlflow"], isolation=isolation, shutdown_timeout=seconds)
    session = process.session()
    assert session is not None
    (delivery,) = session.pipeline.deliveries

    def handed_over(count: int) -> None:
        while delivery.counts.delivered_points < count:
            time.sleep(0.005)

    figures: dict[str, float] = {}
    if isolation == "process":
        began = time.process_time()
        for step in range(SCRIPT_STEPS):
            for tag in _bench.TAGS:
                tracelet_otel.log_scalar(tag, step / 7, step)
            time.sleep(0.01)
        handed_over(1 + SCRIPT_STEPS * 10)
        figures["script"] = (time.process_time() - began) / (SCRIPT_STEPS * 10) * 1e6
        assert tracelet_otel.flush(120)
    done = delivery.counts.captured_points
    all_began, began = time.process_time(), time.thread_time()
    for step in range(points):
        tracelet_otel.log_scalar(_bench.TAGS[step % 10], step / 7, SCRIPT_STEPS + step)
    figures["call"] = (time.thread_time() - began) / points * 1e6
    if isolation == "process":
        handed_over(done + points)
        figures["all"] = (time.process_time() - all_began) / points * 1e6
    figures["exit"] = _bench.seconds(tracelet_otel.shutdown)
    return figures


def measure(isolation: str, points: int) -> dict[str, float]:
    with _bench.new_folder() as folder:
        _bench.make_mlflow(folder / "mlflow.db")
        figures, printed = _bench.call(child, isolation, points, folder=folder, TMPDIR=str(folder))
        expected = 1 + points + (SCRIPT_STEPS * 10 if isolation == "process" else 0)
        end = time.monotonic() + 300
        while True:
            found = _bench.count_in_mlflow(folder)
            statuses = [run.status for run in mlflow_content.runs(folder / "mlflow.db")]
            if (found, statuses) == (expected, ["FINISHED"]):
                return figures
            if time.monotonic() > end:
                sys.exit(f"{isolation}: MLflow has {found} points, not {expected}; {statuses}\n{printed}")
            time.sleep(0.2)


def main() -> None:
    options = _bench.make_parser(__doc__, points=50_000, rounds=5).parse_args()
    rounds = [
        (measure("thread", options.points), measure("process", options.points)) for _ in range(options.rounds)
    ]
    rows = [
        _bench.Row("thread, call", "us", [thread["call"] for thread, _ in rounds]),
        _bench.Row("process, call", "us", [agent["call"] for _, agent in rounds]),
        _bench.Row(
            "process / thread", "x", [agent["call"] / thread["call"] for thread, agent in rounds], 1.0
        ),
        _bench.Row("all threads", "us", [agent["all"] for _, agent in rounds], 10.0),
        _bench.Row("in a script", "us", [agent["script"] for _, agent in rounds]),
        _bench.Row("exit, thread", "s", [thread["exit"] for thread, _ in rounds]),
        _bench.Row("exit, process", "s", [agent["exit"] for _, agent in rounds], 3.0),
    ]
    title = f"{options.points:,} points, {options.rounds} rounds, medians and ranges"
    _bench.report(options, title, rows)


if __name__ == "__main__":
    main()
