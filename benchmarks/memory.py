"""Whether the memory of a training process stays flat over an hour's worth of points.

    python benchmarks/memory.py [--points 3600000] [--rate 10000] [--json results.json] [--write-docs]

3.6 million points are an hour at 1,000 points a second: 100 steps of 10 tags. A process of its own logs them
with `log_scalar`, at a rate that the agent and MLflow (SQLite) keep up with. "training" is the resident
memory of this process after a quarter, a half, three quarters and all of the points. It is flat if it has at
most 10 % more after all points than after a quarter. "agent" is the memory of the agent, which contains
MLflow's client. Afterwards the points in MLflow are counted; if one is missing, the program ends with an
error.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import _docs
import psutil
import trackers
from _processes import run
from _rows import Row

QUARTERS = 4
LIMIT = 1.1
_PACE_S = 0.05


def child(points: int, rate: float) -> None:
    """Logs the points at a steady rate; memory in MiB after each quarter goes to ``figures.json``."""
    import tracelet_otel

    tracelet_otel.configure(backends=["mlflow"], shutdown_timeout=600)
    tracelet_otel.log_scalar("warm-up", 0.0, 0)
    assert tracelet_otel.flush(300)
    figures: dict[str, list[float]] = {"training": [], "agent": []}
    began = time.perf_counter()
    for quarter in range(QUARTERS):
        for index in range(points * quarter // QUARTERS, points * (quarter + 1) // QUARTERS):
            step, tag = divmod(index, trackers.TAGS)
            tracelet_otel.log_scalar(f"group/tag{tag}", index * 31 % 997 / 997, step)
            ahead = index / rate - (time.perf_counter() - began)
            if ahead > _PACE_S:
                time.sleep(ahead)
        figures["training"].append(_resident(psutil.Process()))
        figures["agent"].append(sum(_resident(process) for process in _agents()))
    Path("figures.json").write_text(json.dumps(figures), encoding="utf-8")
    tracelet_otel.shutdown()


def _resident(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20


def _agents() -> list[psutil.Process]:
    """The agents, which have the same current folder as this process; they are not its children."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.cwd() == str(Path.cwd()):
                found.append(process)
        except psutil.Error:  # another user's, or it has ended
            continue
    return found


def measure(points: int, rate: float) -> dict[str, list[float]]:
    """One round, in a new process and a new folder."""
    with tempfile.TemporaryDirectory(prefix="memory-", ignore_cleanup_errors=True) as folder:
        command = [__file__, "--child", "--points", str(points), "--rate", str(rate)]
        printed = run(command, folder, trackers.environment(folder, {}), "training")
        connection = sqlite3.connect(Path(folder, "mlflow.db"))
        (found,) = connection.execute("select count(*) from metrics where key like 'group/%'").fetchone()
        connection.close()
        if found != points:
            sys.exit(f"{found} of {points} points\n{printed}")
        return json.loads(Path(folder, "figures.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=3_600_000)
    parser.add_argument("--rate", type=float, default=10_000, help="points a second")
    _docs.add_options(parser)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.points, options.rate)
        return
    taken = measure(options.points, options.rate)
    rows = [
        Row(f"{name}, {quarter + 1}/{QUARTERS}", "MiB", [figures[quarter]])
        for name, figures in taken.items()
        for quarter in range(QUARTERS)
    ]
    growth = taken["training"][-1] / taken["training"][0]
    rows.append(Row("training, 4/4 : 1/4", "x", [growth], LIMIT))
    title = f"{options.points:,} points at {options.rate:,.0f} a second"
    _docs.report("memory", options, title, f"{title}.", rows, taken)
    sys.exit(any(row.misses for row in rows))


if __name__ == "__main__":
    main()
