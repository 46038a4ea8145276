"""What recording costs the training thread, and how soon after the last call every point is in MLflow.

    python benchmarks/hot_path.py [--points 50000] [--repeats 5] [--json results.json]

Prints one table, each figure as the median of the repeats with the lowest and the highest; exits with 1
if a median misses its target. What is compared is measured in the same process, in turns.

On the training thread, in blocks of 5,000 calls over 10 tags:

added to add_scalar     `SummaryWriter.add_scalar` with the hook minus the same without it, in blocks that
                        follow each other on the same writer
hook alone              the same for `EventFileWriter.add_event`, on a writer without queue, thread and
                        file: the hook's work, without the noise of the function that it hooks into
Gauge.set               of a plain `MeterProvider` with one reader, with the same two attributes

What we add is CPU time of the training thread, which is the same on an idle and on a busy machine.
`Gauge.set` does not wait for anything, so it is CPU time too. But a plain `add_scalar` costs training its
wall time: for two thirds of it the thread waits for the writer's own thread, behind a queue of ten events.
The ratio of both wall times has no target, since it depends more on what else runs on the machine than on
the hook.

Behind the training thread, the pipeline's thread collects and encodes every point. Python's threads share one
lock, so in the worst case training waits for this too: "all threads" is what recording adds to the CPU time
of the whole process in an uninterrupted loop of `add_scalar`, collected every second.

To MLflow (sqlite), from the last call of a loop until `flush()` returns:

after add_scalar        the points come at the speed of TensorBoard; most are delivered during the loop
after log_scalar        the points come faster than they can be delivered; most are left at the end
log_batch               for comparison: a loop over `MlflowClient.log_batch` that writes the same points,
                        1,000 a call

"CPU" is that of this process's threads during that time. It does not include the disk, and not the agent, in
which the tracker's client runs. Both sides are connected, and their run exists, before the clock starts; each
writes to a new copy of an empty database. Afterwards every point is read back and compared; any difference
ends the program.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import _bench
from _bench import TAGS, Cost, Point, Row, log_all, timed
from _mlflow_delivery import measure_delivery
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter

from tracelet_otel import recording, semconv
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.instrumentation.tensorboard.instrumentor import TensorBoardInstrumentor
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.recording.run import Run, RunScope
from tracelet_otel.session.pipeline import Pipeline

BLOCK = 5_000


class Nowhere:
    """A destination that takes everything; also what an event-file writer hands its bytes to."""

    takes_otlp = True

    def send(self, batch: Batch) -> Receipt:
        return Receipt(batch.points, batch.records)

    def load(self) -> None: ...

    def connect(self) -> None: ...

    def close(self) -> None: ...

    def flush(self) -> None: ...

    def write(self, data: bytes) -> None: ...

    def locations(self) -> list[str]:
        return []

    def refusals(self) -> str:
        return ""


def start_pipeline(run: Run, folder: Path, interval: float) -> Pipeline:
    pipeline = Pipeline(
        Resource({}), RunScope(run), interval=interval, media=MediaFolder(str(folder / "media"))
    )
    pipeline.start([Delivery("nowhere", Nowhere(), max_queue_bytes=2**30)])
    recording.install(pipeline.recorder)
    return pipeline


def stop_pipeline(pipeline: Pipeline, expected: int) -> None:
    recording.install(None)
    pipeline.stop(60)
    (delivery,) = pipeline.deliveries
    if delivery.counts.delivered_points != expected:
        sys.exit(f"{delivery.counts.delivered_points} points were recorded, not {expected}")


def new_event(tag: str) -> Any:
    protos: Any = (event_pb2, summary_pb2)  # their modules are generated and have no types
    value = protos[1].Summary.Value(tag=tag, simple_value=0.125)
    return protos[0].Event(wall_time=time.time(), summary=protos[1].Summary(value=[value]))


def make_points(count: int) -> list[Point]:
    # At most six digits, so that a value is the same after it was a float32.
    return [Point(TAGS[i % len(TAGS)], i * 7919 % 1_000_003 % 100_000 / 1000, i) for i in range(count)]


def measure_thread(points: list[Point], repeats: int, folder: Path) -> list[Row]:
    run = Run(id="0123456789abcdef0123456789abcdef")
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    gauge: Any = provider.get_meter("bare").create_gauge(semconv.SCALAR)
    attributes = {tag: {semconv.TAG: tag, semconv.RUN_ID: run.id} for tag in TAGS}
    events = {tag: new_event(tag) for tag in TAGS}
    event_writer: Any = EventFileWriter(str(folder / "events"))
    event_writer._async_writer.close()
    event_writer._async_writer = Nowhere()
    writer = SummaryWriter(str(folder / "logs"))
    instrumentor = TensorBoardInstrumentor()

    def add_scalars(block: list[Point]) -> None:
        log_all(writer.add_scalar, block)

    def add_events(block: list[Point]) -> None:
        for tag, _, step in block:
            event = events[tag]
            event.step = step
            event_writer.add_event(event)

    def set_gauge(block: list[Point]) -> None:
        for tag, value, _ in block:
            gauge.set(value, attributes[tag])

    def without_gauge(block: list[Point]) -> None:
        for tag, _, _ in block:
            attributes[tag]

    def cost(action: Callable[[list[Point]], None], block: list[Point]) -> Cost:
        taken = timed(partial(action, block), len(block))
        writer.flush()
        return taken

    medians: dict[str, list[Cost]] = {}
    pipeline = start_pipeline(run, folder, interval=3600)  # collects when it is told to
    recorded = 0
    for repeat in range(-1, repeats):  # the first one warms up
        costs: defaultdict[str, list[Cost]] = defaultdict(list)
        for start in range(0, len(points), BLOCK):
            block = points[start : start + BLOCK]
            for bare, added, action in (
                ("plain add_scalar", "added to add_scalar", add_scalars),
                ("plain add_event", "hook alone", add_events),
            ):
                plain = cost(action, block)
                instrumentor.instrument()
                hooked = cost(action, block)
                instrumentor.uninstrument()
                recorded += len(block)
                costs["pipeline"].append(timed(pipeline._collect, len(block)))
                pipeline.flush(60)
                costs[bare].append(plain)
                costs[added].append(hooked.minus(plain))
            costs["Gauge.set"].append(cost(set_gauge, block).minus(cost(without_gauge, block)))
        if repeat >= 0:
            for name, taken in costs.items():
                medians.setdefault(name, []).append(_bench.medians(taken))
    stop_pipeline(pipeline, recorded)

    everything: list[float] = []
    instrumentor.instrument()
    for _ in range(repeats):
        plain = cost(add_scalars, points)
        pipeline = start_pipeline(run, folder, interval=1)
        hooked = cost(add_scalars, points)
        stop_pipeline(pipeline, len(points))
        everything.append(hooked.process - plain.process)
    instrumentor.uninstrument()
    writer.close()

    cpu = {name: [taken.thread for taken in costs] for name, costs in medians.items()}
    wall = {name: [taken.wall for taken in costs] for name, costs in medians.items()}
    rows: list[Row] = []
    for name in ("Gauge.set", "plain add_scalar", "added to add_scalar", "hook alone"):
        rows += [Row(f"{name}, CPU", "us", cpu[name]), Row(f"{name}, wall", "us", wall[name])]
    added, hook, bare, plain = "added to add_scalar", "hook alone", cpu["Gauge.set"], wall["plain add_scalar"]
    return [
        *rows,
        Row("pipeline: collect and encode, CPU", "us", cpu["pipeline"]),
        Row("added to add_scalar, all threads, CPU", "us", everything),
        Row.ratios(f"{added} / Gauge.set", cpu[added], bare, 1.6),
        Row.ratios(f"{hook} / Gauge.set", cpu[hook], bare),
        Row.ratios("added / plain add_scalar", cpu[added], plain, 0.3),
        Row.ratios(f"{hook} / plain add_scalar", cpu[hook], plain),
        Row.ratios("added / plain add_scalar, wall / wall", wall[added], plain),
    ]


def report(rows: list[Row]) -> None:
    width = max(len(row.name) for row in rows)
    print(f"{'':<{width}}{'median':>10}{'min':>10}{'max':>10}{'target':>10}")
    for row in rows:
        numbers = "".join(f"{figure:10.2f}" for figure in row.span)
        target = "" if row.target is None else f"{row.target:10.2f}  {row.verdict}"
        print(f"{row.name:<{width}}{numbers}{target} {row.unit}".rstrip())


def main() -> None:
    parser = _bench.make_parser(__doc__, points=50_000, repeats=5)
    parser.add_argument("--part", choices=("thread", "mlflow"), help="measure only this part")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)

    points = make_points(options.points)
    rows: list[Row] = []
    with _bench.new_folder() as folder:
        os.environ.setdefault("TRACELET_MEDIA_DIR", str(folder))
        if options.part != "mlflow":
            rows += measure_thread(points, options.repeats, folder)
        if options.part != "thread":
            rows += measure_delivery(points, options.repeats, folder)
    print(
        f"{options.points} points over {len(TAGS)} tags, {options.repeats} repeats; us: for a call or point"
    )
    report(rows)
    _bench.write_json(
        options,
        {
            "points": options.points,
            "rows": [{**row._asdict(), "median": row.span.median, "verdict": row.verdict} for row in rows],
            **_bench.versions("torch", "mlflow"),
        },
    )
    sys.exit(any(row.misses for row in rows))


if __name__ == "__main__":
    main()
