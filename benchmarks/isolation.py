"""What training pays for more backends, and for a backend that never answers.

    python benchmarks/isolation.py [--rounds 5] [--steps 100] [--json results.json]

Prints one table, each figure as the median of the rounds with the lowest and the highest; exits with 1 if a
median misses its target.

four / one      CPU time of the training thread for a call of `log_scalar`, with MLflow (SQLite), W&B
                (offline), AIM (a local repository) and ClearML (the server of the tests, in this process),
                divided by that with only MLflow; each side in a process of its own, in turns. It is CPU time,
                since that is what the call does on the thread. What the threads behind it take of the
                interpreter's lock is in the next rows
four, training  wall time of a training loop that logs 5 metrics a step with the four backends, divided by
                that of the same loop without us
silent          the same with MLflow at a server that accepts connections and never answers
exit            seconds that `shutdown()` then takes with a `shutdown_timeout` of 2 s; all points are in the
                spool afterwards, or the program ends with an error

The training loop is a small network on the CPU with steps of about 10 ms. torch uses one thread, so that the
other core is free for the threads behind training, as it is if a GPU trains. Blocks with and without us take
turns in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _processes import run
from _rows import Row, report

FOUR = ("mlflow", "wandb", "aim", "clearml")
TAGS = tuple(f"train/metric_{index}" for index in range(10))
CALLS = 20_000
BLOCK = 1_000
DEADLINE_S = 2.0


def call_cost(backends: list[str]) -> float:
    """Microseconds of the thread's CPU time a call, as the median of blocks."""
    import tracelet_otel

    tracelet_otel.configure(backends=backends, run_name="calls", shutdown_timeout=60)
    tracelet_otel.log_scalar("warm-up", 0.0, 0)
    assert tracelet_otel.flush(120)
    times: list[float] = []
    for start in range(0, CALLS, BLOCK):
        began = time.thread_time()
        for step in range(start, start + BLOCK):
            tracelet_otel.log_scalar(TAGS[step % 10], step / 7, step)
        times.append((time.thread_time() - began) / BLOCK * 1e6)
    tracelet_otel.shutdown()
    return statistics.median(times)


def make_training() -> Callable[[int, Callable[[str, float, int], object]], float]:
    """A function that trains some steps, logs each, and returns how many seconds it took."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    inputs, targets = torch.randn(256, 256), torch.randint(0, 10, (256,))

    def train(steps: int, log: Callable[[str, float, int], object]) -> float:
        began = time.perf_counter()
        for step in range(steps):
            loss = nn.functional.cross_entropy(network(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            value = loss.item()
            for tag in TAGS[:5]:
                log(tag, value, step)
        return time.perf_counter() - began

    return train


def training_ratio(
    backends: Any, steps: int, *, rounds: int, deadline: float, blocks: int = 4
) -> tuple[list[float], list[float]]:
    """For each round the time with us divided by that without, and the seconds of ``shutdown()``."""
    import tracelet_otel

    train = make_training()
    train(steps, lambda tag, value, step: None)
    ratios: list[float] = []
    exits: list[float] = []
    for _ in range(rounds):
        # Half of the blocks without us run before, half after, since the machine's speed changes.
        without = [train(steps, lambda tag, value, step: None) for _ in range(blocks // 2)]
        tracelet_otel.configure(backends=backends, run_name="training", shutdown_timeout=deadline)
        tracelet_otel.log_scalar("warm-up", 0.0, 0)
        tracelet_otel.flush(deadline)  # the import of the client is not measured
        using = [train(steps, tracelet_otel.log_scalar) for _ in range(blocks)]
        began = time.perf_counter()
        tracelet_otel.shutdown()
        exits.append(time.perf_counter() - began)
        without += [train(steps, lambda tag, value, step: None) for _ in range(blocks // 2)]
        ratios.append(sum(using) / sum(without))
    return ratios, exits


def child(side: str, rounds: int, steps: int) -> dict[str, list[float]]:
    """One side, in a process and a folder of its own."""
    if side in ("one", "four"):
        return {"calls": [call_cost(list(FOUR if side == "four" else FOUR[:1]))]}
    if side == "training":
        ratios, _ = training_ratio(list(FOUR), steps, rounds=rounds, deadline=60)
        return {"ratios": ratios}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        backends = {"mlflow": {"tracking_uri": f"http://127.0.0.1:{silent.getsockname()[1]}"}}
        ratios, exits = training_ratio(backends, steps, rounds=rounds, deadline=DEADLINE_S)
    from tracelet_otel.delivery.spool.reading import folders, read

    kept = sum(batch.points for folder in folders(Path("state")) for batch in read(folder))
    expected = rounds * (4 * steps * 5 + 1)
    if kept != expected:
        sys.exit(f"{kept:,} points are in the spool, not {expected:,}")
    return {"ratios": ratios, "exits": exits}


def measure(side: str, variables: dict[str, str], *, rounds: int, steps: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {
            **os.environ,
            **variables,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
            "TRACELET_SPOOL_DIR": f"{folder}/state",
        }
        command = [__file__, "--child", side, "--rounds", str(rounds), "--steps", str(steps)]
        run(command, folder, environment, side)
        return json.loads(Path(folder, "figures.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of a block of training")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        figures = child(options.child, options.rounds, options.steps)
        Path("figures.json").write_text(json.dumps(figures), encoding="utf-8")
        return
    from trackers import clearml_server

    with clearml_server() as variables:
        calls = [
            [measure(side, variables, rounds=1, steps=1)["calls"][0] for side in ("four", "one")]
            for _ in range(options.rounds)
        ]
        four = measure("training", variables, rounds=options.rounds, steps=options.steps)
    silent = measure("silent", {}, rounds=options.rounds, steps=options.steps)
    rows = [
        Row("one", "us", [one for _, one in calls]),
        Row("four / one", "x", [four / one for four, one in calls], 1.15),
        Row("four, training", "x", four["ratios"]),
        Row("silent", "x", silent["ratios"], 1.02),
        Row("exit", "s", silent["exits"], DEADLINE_S + 1),
    ]
    title = f"{options.rounds} rounds, medians and ranges"
    report(title, rows, options.json, {row.name: row.figures for row in rows})
    sys.exit(any(row.misses for row in rows))


if __name__ == "__main__":
    main()
