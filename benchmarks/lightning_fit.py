"""What recording costs a Lightning fit: 2,000 steps with 5 metrics logged at every step.

    python benchmarks/lightning_fit.py [--repeats 5] [--json results.json]

Every variant trains the same small network on scikit-learn's digits (batch 64, on the CPU). All run in one
process: with a process for each, the changes of the machine's speed would be larger than the differences.
They take turns, after one round that does not count. The time is that of `Trainer.fit`, in which a logger
writes everything. tracelet delivers behind training; what is left when the fit ends is the flush, which is
shown separately. "own us/step" is the CPU time of the training thread alone, without what other threads and
other programs do meanwhile.

plain         `logger=False`, nothing records
tracelet      `logger=False`, tracelet_otel records into MLflow (sqlite)
tensorboard   Lightning's TensorBoardLogger
mlflow        Lightning's MLFlowLogger into MLflow (sqlite)

At the end, all 10,000 points must be in MLflow, at their steps, for every fit of variant `tracelet`.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import _bench
import lightning
import torch
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tracelet_otel
from tests.support import mlflow_content

METRICS = ("loss", "accuracy", "confidence", "grad_norm", "weight_norm")
BATCH_SIZE = 64
MOST = 1.10
"""Of variant ``plain``'s time."""


class Classifier(lightning.LightningModule):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)
        )

    def training_step(self, batch: Any) -> Any:
        images, labels = batch
        logits = self.network(images)
        loss = nn.functional.cross_entropy(logits, labels)
        with torch.no_grad():
            weight = next(self.network.parameters())
            values = {
                "loss": loss,
                "accuracy": (logits.argmax(1) == labels).float().mean(),
                "confidence": logits.softmax(1).amax(1).mean(),
                "grad_norm": weight.grad.norm() if weight.grad is not None else torch.zeros(()),
                "weight_norm": weight.norm(),
            }
        self.log_dict(values, on_step=True, on_epoch=False)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.001)


class Times(NamedTuple):
    """Seconds of one fit."""

    wall: float
    thread: float
    """CPU time of the training thread."""
    flush: float = 0.0


def fit(steps: int, hidden: int, loader: Any, logger: Any, folder: Path) -> Times:
    torch.manual_seed(0)
    model = Classifier(hidden)
    trainer = lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=1,
        logger=logger,
        max_epochs=-1,
        max_steps=steps,
    )
    begin, begin_thread = time.perf_counter(), time.thread_time()
    trainer.fit(model, loader)
    return Times(time.perf_counter() - begin, time.thread_time() - begin_thread)


def fit_recorded(uri: str, name: str, *arguments: Any) -> Times:
    tracelet_otel.configure(
        backends={"mlflow": {"tracking_uri": uri}}, experiment="lightning_fit", run_name=name
    )
    try:
        times = fit(*arguments)
        return times._replace(flush=_bench.seconds(tracelet_otel.flush))
    finally:
        tracelet_otel.shutdown()
        for entry in entry_points(group="opentelemetry_instrumentor"):
            if entry.value.startswith("tracelet_otel."):
                entry.load()().uninstrument()


def check(database: Path, names: list[str], steps: int) -> int:
    """The points of all recorded fits in MLflow, each checked to be at its step."""
    runs = {run.name: run.id for run in mlflow_content.runs(database)}
    for name in names:
        stored = mlflow_content.points(database, runs[name])
        for metric in METRICS:
            found = sorted(point.step for point in stored.get(metric, []))
            if found != list(range(steps)):
                sys.exit(f"{name}, metric {metric}: {len(found)} points, not one at each of {steps} steps")
    return len(names) * len(METRICS) * steps


def main() -> None:
    parser = _bench.make_parser(__doc__, steps=2000, repeats=5)
    parser.add_argument("--hidden", type=int, default=256, help="width of the network")
    parser.add_argument("--mlflow-repeats", type=int, default=1, help="of the slow MLFlowLogger")
    parser.add_argument("--threads", type=int, default=1, help="of torch; the others are left to delivery")
    options = parser.parse_args()

    warnings.simplefilter("ignore")
    os.environ["MLFLOW_LOGGING_LEVEL"] = "ERROR"  # MLflow is imported later, and would set its logger's level
    for name in ("lightning.pytorch", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    loader = DataLoader(data, batch_size=BATCH_SIZE, shuffle=True, drop_last=True)

    with _bench.new_folder() as folder:
        ours, theirs = folder / "ours.db", f"sqlite:///{folder}/theirs.db"
        loggers: dict[str, Callable[[], Any]] = {
            "plain": lambda: False,
            "tracelet": lambda: False,
            "tensorboard": lambda: TensorBoardLogger(str(folder)),
            "mlflow": lambda: MLFlowLogger("theirs", tracking_uri=theirs),
        }
        times: dict[str, list[Times]] = {variant: [] for variant in loggers}
        for repeat in range(-1, options.repeats):  # the first round warms up
            steps = options.steps if repeat >= 0 else min(100, options.steps)
            for variant, results in times.items():
                if variant == "mlflow" and repeat >= options.mlflow_repeats:
                    continue
                arguments = (steps, options.hidden, loader, loggers[variant](), folder)
                if variant == "tracelet":
                    result = fit_recorded(f"sqlite:///{ours}", f"fit {repeat}", *arguments)
                else:
                    result = fit(*arguments)
                if repeat >= 0:
                    results.append(result)
        points = check(ours, [f"fit {repeat}" for repeat in range(options.repeats)], options.steps)
    report(options, {variant: results for variant, results in times.items() if results}, points)


def report(options: argparse.Namespace, times: dict[str, list[Times]], points: int) -> None:
    walls = {variant: [result.wall for result in results] for variant, results in times.items()}
    threads = {variant: [result.thread for result in results] for variant, results in times.items()}
    ratios = [ours / plain for ours, plain in zip(walls["tracelet"], walls["plain"], strict=True)]
    flushes = [result.flush for result in times["tracelet"]]
    print(f"{options.steps} steps, {len(METRICS)} metrics at every step, {options.repeats} rounds")
    columns = ("median s", "min s", "max s", "us/step", "own us/step", "ratio")
    print(f"{'variant':<12}" + "".join(f"{column:>12}" for column in columns))
    plain = statistics.median(walls["plain"])
    for variant, seconds in walls.items():
        median, low, high = _bench.Figure.of(seconds)
        per_step, own = (each / options.steps * 1e6 for each in (median, statistics.median(threads[variant])))
        ratio = median / plain
        print(f"{variant:<12}{median:12.3f}{low:12.3f}{high:12.3f}{per_step:12.0f}{own:12.0f}{ratio:12.3f}")
    ratio = statistics.median(walls["tracelet"]) / plain
    print(f"ratio tracelet/plain by round: {', '.join(f'{one:.3f}' for one in ratios)}")
    print(f"flush after the fit: median {statistics.median(flushes):.2f} s")
    print(f"{points} of {options.steps * len(METRICS) * options.repeats} points in MLflow, each at its step")
    _bench.write_json(
        options,
        {
            "steps": options.steps,
            "metrics": len(METRICS),
            "hidden": options.hidden,
            "threads": options.threads,
            "seconds": walls,
            "thread_seconds": threads,
            "flush_seconds": flushes,
            "ratio": ratio,
            "ratios": ratios,
            "points": points,
            **_bench.versions("torch", "lightning"),
        },
    )
    sys.exit(ratio > MOST)


if __name__ == "__main__":
    main()
