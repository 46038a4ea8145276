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

import os
import sys
import time
from pathlib import Path

import _bench
import psutil

QUARTERS = 4
LIMIT = 1.1
_PACE_S = 0.05


def child(points: int, rate: float) -> dict[str, list[float]]:
    """Logs the points at a steady rate; memory in MiB after each quarter."""
    import tracelet_otel

    _bench.start(backends=["mlflow"], shutdown_timeout=600)
    figures: dict[str, list[float]] = {"training": [], "agent": []}
    began = time.perf_counter()
    for quarter in range(QUARTERS):
        for index in range(points * quarter // QUARTERS, points * (quarter + 1) // QUARTERS):
            step, tag = divmod(index, 10)
            tracelet_otel.log_scalar(f"group/tag{tag}", index * 31 % 997 / 997, step)
            ahead = index / rate - (time.perf_counter() - began)
            if ahead > _PACE_S:
                time.sleep(ahead)
        figures["training"].append(_resident(psutil.Process()))
        # The agent is not a child of this process, but has its current folder.
        here = str(Path.cwd())
        agents = [
            process
            for process in psutil.process_iter(["cwd"])
            if process.info["cwd"] == here and process.pid != os.getpid()
        ]
        figures["agent"].append(sum(map(_resident, agents)))
    tracelet_otel.shutdown()
    return figures


def _resident(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20


def main() -> None:
    parser = _bench.make_parser(__doc__, writes_docs=True, points=3_600_000)
    parser.add_argument("--rate", type=float, default=10_000, help="points a second")
    options = parser.parse_args()
    with _bench.new_folder() as folder:
        taken, printed = _bench.call(child, options.points, options.rate, folder=folder)
        found = _bench.count_in_mlflow(folder) - 1  # the first one is not among them
    if found != options.points:
        sys.exit(f"{found} of {options.points} points\n{printed}")
    rows = [
        _bench.Row(f"{name}, {quarter + 1}/{QUARTERS}", "MiB", [figures[quarter]])
        for name, figures in taken.items()
        for quarter in range(QUARTERS)
    ]
    growth = taken["training"][-1] / taken["training"][0]
    rows.append(_bench.Row("training, 4/4 : 1/4", "x", [growth], LIMIT))
    title = f"{options.points:,} points at {options.rate:,.0f} a second"
    _bench.report(options, title, rows, taken, f"{title}.")


if __name__ == "__main__":
    main()
