"""How fast `tracelet-otel import` is, compared with TensorBoard reading the same event files.

    python benchmarks/import_logs.py [--points 200000] [--rounds 5] [--json results.json] [--write-docs]

Each side runs in a process of its own, in turns, and is measured from the start to the end of the process;
each figure is the median of the rounds, in points a second.

read                TensorBoard's own `EventAccumulator`, set to keep every scalar
file                `tracelet-otel import --backend file`: read, decoded, written as OTLP JSON lines
mlflow              `tracelet-otel import --backend mlflow` into an SQLite database that exists already
read : file         how much longer the second takes than the first, in one round; there is no target, since
                    the first only reads

The points of each import are counted afterwards, in the lines and in the database; one that is missing ends
the program with an error.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import _docs  # noqa: E402
import trackers  # noqa: E402
from _processes import empty_mlflow, run  # noqa: E402
from _rows import Row  # noqa: E402
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (  # noqa: E402
    ExportMetricsServiceRequest,
)

from tests.support import mlflow_content  # noqa: E402
from tracelet_otel.otlp.decoding import decode_series  # noqa: E402
from tracelet_otel.otlp.json import parse_line  # noqa: E402

READ = """
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0}).Reload()
print(sum(len(found.Scalars(tag)) for tag in found.Tags()["scalars"]))
"""


def write_logs(folder: Path, points: int) -> None:
    """One event file with the points."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for step, values in trackers.rows(points):
            for tag, value in values.items():
                writer.add_scalar(tag, value, step)


def timed(folder: Path, side: str, *arguments: str) -> tuple[float, str]:
    """Seconds that a process takes, and what it prints."""
    began = time.perf_counter()
    printed = run(arguments, folder, trackers.environment(str(folder), {}), side)
    return time.perf_counter() - began, printed


def in_lines(folder: Path) -> int:
    """The points of every spool in a folder."""
    count = 0
    for path in folder.rglob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            request = parse_line(line)
            if isinstance(request, ExportMetricsServiceRequest):
                count += sum(len(series.points) for series in decode_series(request))
    return count


def measure(side: str, logs: Path, points: int, empty: Path) -> float:
    """Points a second of one side, in a new folder."""
    with tempfile.TemporaryDirectory(prefix="import-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if side == "read":
            taken, printed = timed(folder, side, "-c", READ, str(logs))
            found = int(printed.splitlines()[0])  # warnings may follow
        else:
            shutil.copy(empty, folder / "mlflow.db")
            taken, _ = timed(folder, side, "-m", "tracelet_otel.cli", "import", str(logs), "--backend", side)
            stored = mlflow_content.points(folder / "mlflow.db").values()
            found = sum(map(len, stored)) if side == "mlflow" else in_lines(folder)
        if found != points:
            sys.exit(f"{side}: {found} of {points} points")
        return points / taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    _docs.add_options(parser)
    options = parser.parse_args()
    figures: dict[str, list[float]] = {"read": [], "file": [], "mlflow": []}
    with tempfile.TemporaryDirectory(prefix="logs-") as name:
        logs, empty = Path(name, "logs"), empty_mlflow(Path(name))
        write_logs(logs, options.points)
        for _ in range(options.rounds):
            for side, taken in figures.items():
                taken.append(measure(side, logs, options.points, empty))
    rows = [Row(side, "/s", taken) for side, taken in figures.items()]
    ratios = [read / ours for read, ours in zip(figures["read"], figures["file"], strict=True)]
    rows.append(Row("read : file", "x", ratios))
    title = f"{options.points:,} points, medians of {options.rounds} rounds"
    _docs.report("import_logs", options, title, f"{title}, in points a second.", rows, figures)


if __name__ == "__main__":
    main()
