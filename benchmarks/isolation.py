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

import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import _bench
from _bench import TAGS, TRACKERS, Row

from tests.support.clearml_server import ClearMLServer

CALLS = 20_000
BLOCK = 1_000
BLOCKS = 4
"""Of training, with us and without."""
DEADLINE_S = 2.0


def call_cost(backends: Sequence[str]) -> float:
    """Microseconds of the thread's CPU time a call, as the median of blocks."""
    import tracelet_otel

    def log(first: int) -> None:
        for step in range(first, first + BLOCK):
            tracelet_otel.log_scalar(TAGS[step % 10], step / 7, step)

    _bench.start(backends=list(backends), run_name="calls", shutdown_timeout=60)
    costs = [_bench.timed(partial(log, first), BLOCK) for first in range(0, CALLS, BLOCK)]
    tracelet_otel.shutdown()
    return _bench.medians(costs).thread


def make_training() -> Callable[..., float]:
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

    def train(steps: int, log: Callable[[str, float, int], object] = lambda *_: None) -> float:
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


def training_cost(backends: Any, steps: int, rounds: int, deadline: float) -> dict[str, list[float]]:
    """For each round the time with us divided by that without, and the seconds of ``shutdown()``."""
    import tracelet_otel

    train = make_training()
    train(steps)
    ratios: list[float] = []
    exits: list[float] = []
    for _ in range(rounds):
        # Half of the blocks without us run before, half after, since the machine's speed changes.
        without = [train(steps) for _ in range(BLOCKS // 2)]
        tracelet_otel.configure(backends=backends, run_name="training", shutdown_timeout=deadline)
        tracelet_otel.log_scalar("warm-up", 0.0, 0)
        tracelet_otel.flush(deadline)  # the import of the client is not measured
        using = [train(steps, tracelet_otel.log_scalar) for _ in range(BLOCKS)]
        exits.append(_bench.seconds(tracelet_otel.shutdown))
        without += [train(steps) for _ in range(BLOCKS // 2)]
        ratios.append(sum(using) / sum(without))
    return {"ratios": ratios, "exits": exits}


def child(side: str, rounds: int, steps: int) -> dict[str, list[float]]:
    """One side, in a process and a folder of its own."""
    if side in ("one", "four"):
        return {"calls": [call_cost(TRACKERS if side == "four" else ["mlflow"])]}
    if side == "training":
        return training_cost(list(TRACKERS), steps, rounds, deadline=60)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        backends = {"mlflow": {"tracking_uri": f"http://127.0.0.1:{silent.getsockname()[1]}"}}
        figures = training_cost(backends, steps, rounds, DEADLINE_S)
    from tracelet_otel.delivery.spool.reading import folders, read

    kept = sum(batch.points for folder in folders(Path("state")) for batch in read(folder))
    expected = rounds * (BLOCKS * steps * 5 + 1)
    if kept != expected:
        sys.exit(f"{kept:,} points are in the spool, not {expected:,}")
    return figures


def measure(side: str, rounds: int, steps: int, **variables: str) -> dict[str, list[float]]:
    with _bench.new_folder() as folder:
        variables["TRACELET_SPOOL_DIR"] = f"{folder}/state"
        variables["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = ""  # training pays for all of them
        figures, _ = _bench.call(child, side, rounds, steps, folder=folder, **variables)
        return figures


def main() -> None:
    parser = _bench.make_parser(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=100, help="of a block of training")
    options = parser.parse_args()
    with closing(ClearMLServer()) as server:
        variables = server.variables()
        calls = [
            [measure(side, 1, 1, **variables)["calls"][0] for side in ("four", "one")]
            for _ in range(options.rounds)
        ]
        four = measure("training", options.rounds, options.steps, **variables)
    silent = measure("silent", options.rounds, options.steps)
    rows = [
        Row("one", "us", [one for _, one in calls]),
        Row("four / one", "x", [many / one for many, one in calls], 1.15),
        Row("four, training", "x", four["ratios"]),
        Row("silent", "x", silent["ratios"], 1.02),
        Row("exit", "s", silent["exits"], DEADLINE_S + 1),
    ]
    title = f"{options.rounds} rounds, medians and ranges"
    _bench.report(options, title, rows)


if __name__ == "__main__":
    main()
