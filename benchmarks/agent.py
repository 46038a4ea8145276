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

import argparse
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import trackers
from _processes import empty_mlflow, run
from _rows import Row, report

from tracelet_otel.settings import Isolation

TAGS = tuple(f"train/metric_{index}" for index in range(10))
SCRIPT_STEPS = 500


def child(isolation: Isolation, points: int) -> dict[str, float]:
    """The figures of one process."""
    import tracelet_otel
    from tracelet_otel.agent import delivery as agent_delivery
    from tracelet_otel.session import process

    agent_delivery._CONTAINERS = ()  # also where this machine is a container
    os.environ.pop("SLURM_JOB_ID", None)
    seconds = 1.0 if isolation == "process" else 120.0
    tracelet_otel.configure(backends=["mlflow"], isolation=isolation, shutdown_timeout=seconds)
    tracelet_otel.log_scalar("warm-up", 0.0, 0)
    session = process.session()
    assert session is not None
    assert session.flush(120)
    (delivery,) = session.pipeline.deliveries

    def handed_over(count: int) -> None:
        while delivery.counts.delivered_points < count:
            time.sleep(0.005)

    figures: dict[str, float] = {}
    if isolation == "process":
        began = time.process_time()
        for step in range(SCRIPT_STEPS):
            for tag in TAGS:
                tracelet_otel.log_scalar(tag, step / 7, step)
            time.sleep(0.01)
        handed_over(1 + SCRIPT_STEPS * 10)
        figures["script"] = (time.process_time() - began) / (SCRIPT_STEPS * 10) * 1e6
        assert session.flush(120)
    done = delivery.counts.captured_points
    all_began, began = time.process_time(), time.thread_time()
    for step in range(points):
        tracelet_otel.log_scalar(TAGS[step % 10], step / 7, SCRIPT_STEPS + step)
    figures["call"] = (time.thread_time() - began) / points * 1e6
    if isolation == "process":
        handed_over(done + points)
        figures["all"] = (time.process_time() - all_began) / points * 1e6
    began = time.perf_counter()
    tracelet_otel.shutdown()
    figures["exit"] = time.perf_counter() - began
    return figures


def stored(database: Path) -> tuple[int, list[str]]:
    connection = sqlite3.connect(database, timeout=60)
    try:
        (count,) = connection.execute("select count(*) from metrics where key not like 'system/%'").fetchone()
        return count, [status for (status,) in connection.execute("select status from runs")]
    finally:
        connection.close()


def measure(isolation: str, points: int, empty: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="agent-", ignore_cleanup_errors=True) as folder:
        shutil.copy(empty, f"{folder}/mlflow.db")
        variables = trackers.environment(folder, {"TMPDIR": folder})
        printed = run([__file__, "--child", isolation, "--points", str(points)], folder, variables, isolation)
        expected = 1 + points + (SCRIPT_STEPS * 10 if isolation == "process" else 0)
        end = time.monotonic() + 300
        while (found := stored(Path(folder, "mlflow.db"))) != (expected, ["FINISHED"]):
            if time.monotonic() > end:
                sys.exit(f"{isolation}: MLflow has {found}, not {expected} points\n{printed}")
            time.sleep(0.2)
        return json.loads(Path(folder, "figures.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        figures = child(options.child, options.points)
        Path("figures.json").write_text(json.dumps(figures), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as folder:
        empty = empty_mlflow(Path(folder))
        rounds = [
            [measure(side, options.points, empty) for side in ("thread", "process")]
            for _ in range(options.rounds)
        ]
    rows = [
        Row("thread, call", "us", [thread["call"] for thread, _ in rounds]),
        Row("process, call", "us", [agent["call"] for _, agent in rounds]),
        Row("process / thread", "x", [agent["call"] / thread["call"] for thread, agent in rounds], 1.0),
        Row("all threads", "us", [agent["all"] for _, agent in rounds], 10.0),
        Row("in a script", "us", [agent["script"] for _, agent in rounds]),
        Row("exit, thread", "s", [thread["exit"] for thread, _ in rounds]),
        Row("exit, process", "s", [agent["exit"] for _, agent in rounds], 3.0),
    ]
    title = f"{options.points:,} points, {options.rounds} rounds, medians and ranges"
    report(title, rows, options.json, {row.name: row.figures for row in rows})
    sys.exit(any(row.misses for row in rows))


if __name__ == "__main__":
    main()
