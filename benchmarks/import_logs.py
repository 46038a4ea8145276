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

import sys
import time
from pathlib import Path

import _bench
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from torch.utils.tensorboard import SummaryWriter

from tracelet_otel.otlp.decoding import decode_series
from tracelet_otel.otlp.json import parse_line

READ = """
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0}).Reload()
print(sum(len(found.Scalars(tag)) for tag in found.Tags()["scalars"]))
"""


def in_lines(folder: Path) -> int:
    """The points of every spool in a folder."""
    lines = (line for path in folder.rglob("*.jsonl") for line in path.read_bytes().splitlines())
    metrics = (item for item in map(parse_line, lines) if isinstance(item, ExportMetricsServiceRequest))
    return sum(len(series.points) for request in metrics for series in decode_series(request))


def measure(side: str, logs: Path, points: int) -> float:
    """Points a second of one side, in a new folder."""
    with _bench.new_folder() as folder:
        _bench.make_mlflow(folder / "mlflow.db")
        command = ["-m", "tracelet_otel.cli", "import", str(logs), "--backend", side]
        began = time.perf_counter()
        printed = _bench.run(side, ["-c", READ, str(logs)] if side == "read" else command, folder)
        taken = time.perf_counter() - began
        if side == "read":
            found = int(printed.splitlines()[0])  # warnings may follow
        else:
            found = _bench.count_in_mlflow(folder) if side == "mlflow" else in_lines(folder)
        if found != points:
            sys.exit(f"{side}: {found} of {points} points")
        return points / taken


def main() -> None:
    options = _bench.make_parser(__doc__, writes_docs=True, points=200_000, rounds=5).parse_args()
    figures: dict[str, list[float]] = {"read": [], "file": [], "mlflow": []}
    with _bench.new_folder() as folder:
        with SummaryWriter(str(folder)) as writer:
            _bench.log_all(writer.add_scalar, _bench.make_points(options.points))
        for _ in range(options.rounds):
            for side, taken in figures.items():
                taken.append(measure(side, folder, options.points))
    rows = [_bench.Row(side, "/s", taken) for side, taken in figures.items()]
    rows.append(_bench.Row.ratios("read : file", figures["read"], figures["file"]))
    title = f"{options.points:,} points, medians of {options.rounds} rounds"
    _bench.report(options, title, rows, figures, f"{title}, in points a second.")


if __name__ == "__main__":
    main()
