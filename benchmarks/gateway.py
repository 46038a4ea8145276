"""What a point costs a gateway, part by part, how many it takes a second, and whether memory stays flat.

    python benchmarks/gateway.py [--points 40000] [--repeats 5] [--runs 500] [--json results.json]

Each figure is the median of the repeats, with the lowest and the highest. Exits with 1 where a target is
missed.

decode          OTLP bytes to the records that a tracker is given, 1,000 exemplars a request, in one process;
                target: at least 800,000 points/s of CPU time
end to end      a gateway as a process of its own gets every point over gRPC, in requests of 4,000 exemplars
                of 10 tags, from four senders, and delivers to MLflow (sqlite) or to backend `file`; from the
                first request to the last point delivered. "CPU" is that of the gateway's process
parts           the CPU time of that, part by part, each measured alone on the same requests in this process:
                receive (gRPC, to the answer), check (parse, validate, find what is new), durable (the line of
                the spool, written and synced), decode, write (the tracker's calls, all threads)
runs            many runs at once into MLflow, round by round; the gateway's memory after each. Flat is when
                the last third has at most 10 % more than the second

The part that costs most is the bound, as Python runs one thread at a time: more parts do not work side by
side but in turns, apart from what waits for the disk or the database.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from tests.gateway.process import Client, Gateway  # noqa: E402
from tests.gateway.support import Job  # noqa: E402
from tracelet_otel import semconv  # noqa: E402
from tracelet_otel.backends import registry as backends  # noqa: E402
from tracelet_otel.delivery.destination import Batch  # noqa: E402
from tracelet_otel.delivery.file import FileDestination  # noqa: E402
from tracelet_otel.delivery.spool.queue import Queue  # noqa: E402
from tracelet_otel.delivery.spool.spool import Durability, Spool  # noqa: E402
from tracelet_otel.gateway.answers import ACCEPTED  # noqa: E402
from tracelet_otel.gateway.items import check_metrics  # noqa: E402
from tracelet_otel.gateway.seen import Seen  # noqa: E402
from tracelet_otel.otlp.decoding import decode_series, parse_metrics  # noqa: E402
from tracelet_otel.tracker.exporter import TrackerExporter  # noqa: E402

DECODE_TARGET = 800_000
TAGS = 10
EXEMPLARS = 4_000
"""A request."""
SENDERS = 4
NOW = 1_700_000_000_000_000_000


class Figure(NamedTuple):
    """The median of some repeats, the lowest and the highest."""

    median: float
    low: float
    high: float


def figure(values: list[float]) -> Figure:
    return Figure(statistics.median(values), min(values), max(values))


def request(run_id: str, first: int, exemplars: int, tags: int = TAGS) -> bytes:
    """One request of a run: the same number of exemplars for each tag, from step ``first`` on."""
    message = ExportMetricsServiceRequest()
    resource = message.resource_metrics.add()
    resource.resource.attributes.add(key=semconv.RUN_ID, value=AnyValue(string_value=run_id))
    metric = resource.scope_metrics.add().metrics.add(name=semconv.SCALAR)
    for tag in range(tags):
        point = metric.gauge.data_points.add(as_double=0.5, time_unix_nano=NOW)
        point.attributes.add(key=semconv.TAG, value=AnyValue(string_value=f"group/tag_{tag}"))
        point.attributes.add(key=semconv.RUN_ID, value=AnyValue(string_value=run_id))
        for step in range(first, first + exemplars // tags):
            value = (step * 31 + tag) % 997 / 997
            exemplar = point.exemplars.add(as_double=value, time_unix_nano=NOW + step * 1_000_000)
            exemplar.filtered_attributes.add(key=semconv.STEP, value=AnyValue(int_value=step))
        point.exemplars[0].filtered_attributes.add(
            key=semconv.SEQUENCE, value=AnyValue(int_value=NOW // 1000 + first)
        )
    return message.SerializeToString()


def requests(run_id: str, points: int) -> list[bytes]:
    """All of a run's points."""
    return [
        request(run_id, first * EXEMPLARS // TAGS, EXEMPLARS) for first in range(max(1, points // EXEMPLARS))
    ]


def cpu(work: Callable[[], object]) -> float:
    """Seconds of CPU time of this process, all threads."""
    started = time.process_time()
    work()
    return time.process_time() - started


# -- decode -----------------------------------------------------------------------------------------------


def measure_decode(repeats: int) -> dict[str, Figure]:
    """Points a second of CPU time, with 1,000 exemplars a data point, and with one."""
    found: dict[str, Figure] = {}
    for name, tags in (("1,000 exemplars a data point", 1), ("1 exemplar a data point", 1000)):
        data = [request("r" * 32, first * 1000, 1000, tags) for first in range(100)]

        def decode(data: list[bytes] = data) -> None:
            for one in data:
                for series in decode_series(parse_metrics(one)):
                    assert series.points

        decode()
        found[name] = figure([1e5 / cpu(decode) for _ in range(repeats)])
    return found


# -- parts ------------------------------------------------------------------------------------------------


def measure_parts(backend: str, points: int, repeats: int, database: Path) -> dict[str, Figure]:
    """Microseconds of CPU time a point, by part."""
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = requests(uuid.uuid4().hex, points)
            count = len(data) * EXEMPLARS
            for part, seconds in (
                ("receive", receive(data)),
                ("check", check(data)),
                ("durable", durable(data, folder)),
                *write(backend, data, folder, database),
            ):
                found.setdefault(part, []).append(seconds / count * 1e6)
    return {part: figure(values) for part, values in found.items()}


def receive(data: list[bytes]) -> float:
    """A server that accepts whatever comes, less what sending costs."""
    import asyncio

    from tracelet_otel.gateway.budget import Budget
    from tracelet_otel.gateway.grpc_server import GrpcServer
    from tracelet_otel.gateway.http_app import MOST_BYTES, MOST_REQUESTS

    class Nothing:
        def metrics(self, data: bytes, source: str = "") -> object:
            return ACCEPTED

        logs = metrics
        traces = metrics

    used: list[float] = []

    async def serve() -> None:
        with ThreadPoolExecutor(4) as pool:
            intake: Any = Nothing()
            budget = Budget(MOST_REQUESTS, MOST_BYTES)
            server = GrpcServer(intake, "127.0.0.1:0", executor=pool, budget=budget, authorize=None, tls=None)
            await server.start()
            loop = asyncio.get_running_loop()
            child = await loop.run_in_executor(None, Sending, f"127.0.0.1:{server.port}", data)
            before = time.process_time()
            await loop.run_in_executor(None, child.go)
            used.append(time.process_time() - before)
            await server.stop(1)

    asyncio.run(serve())
    return used[0]


class Sending:
    """Another process that sends everything, so that its CPU time is not counted here."""

    def __init__(self, address: str, data: list[bytes]) -> None:
        import subprocess

        self._process = subprocess.Popen(
            [sys.executable, __file__, "--send", address], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        for one in data:
            self._process.stdin.write(len(one).to_bytes(4, "big") + one)
        self._process.stdin.write(bytes(4))
        self._process.stdin.flush()
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def go(self) -> None:
        """Returns when everything was answered."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go")
        self._process.stdin.close()
        assert self._process.wait() == 0
        assert self._process.stdout is not None
        self._process.stdout.close()


def send(address: str) -> None:
    """The other process."""
    data: list[bytes] = []
    while length := int.from_bytes(sys.stdin.buffer.read(4), "big"):
        data.append(sys.stdin.buffer.read(length))
    print("ready", flush=True)
    sys.stdin.buffer.read(2)
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(lambda part: send_part(address, part), [data[n::SENDERS] for n in range(SENDERS)]))


def send_part(address: str, data: list[bytes]) -> None:
    with Client("grpc", address) as client:
        for one in data:
            while client.send("metrics", one).code != "OK":
                time.sleep(0.05)


def check(data: list[bytes]) -> float:
    seen = Seen()

    def work() -> None:
        for one in data:
            for item in check_metrics(parse_metrics(one)).items:
                parts = seen.missing(item)
                assert parts is not None
                seen.add(item, parts)

    return cpu(work)


def durable(data: list[bytes], folder: Path) -> float:
    spool = Spool(folder / "spool", max_bytes=2**34, durability=Durability.DISK)
    queue = Queue("spool", max_bytes=2**28, spool=spool)

    def work() -> None:
        for one in data:
            queue.append(Batch(metrics=one, points=EXEMPLARS, size=len(one)))
            spool.sync()
            queue.take()
            queue.done()

    seconds = cpu(work)
    queue.close()
    return seconds


def write(backend: str, data: list[bytes], folder: Path, database: Path) -> Iterator[tuple[str, float]]:
    """The delivery's half."""
    batches = [Batch(metrics=one, points=EXEMPLARS, size=len(one)) for one in data]
    if backend == "file":
        target = FileDestination(folder / "file", max_bytes=2**34)
        yield "write", cpu(lambda: [target.send(batch) for batch in batches])
        target.close()
        return
    decoding = cpu(lambda: [sum(1 for _ in decode_series(parse_metrics(one))) for one in data])
    yield "decode", decoding
    shutil.copy(database, folder / "mlflow.db")
    entry_point = backends.find(backends.TRACKER_GROUP, "mlflow")
    assert entry_point is not None
    tracker = backends.make_tracker("mlflow", entry_point, {"tracking_uri": f"sqlite:///{folder}/mlflow.db"})
    exporter = TrackerExporter(tracker, companions=folder / "companions")
    exporter.load()
    exporter.connect()
    exporter.send(Batch(metrics=request(uuid.uuid4().hex, 0, TAGS)))  # the client's own first time
    yield "write", cpu(lambda: [exporter.send(batch) for batch in batches]) - decoding
    exporter.close()


# -- end to end -------------------------------------------------------------------------------------------


def gateway_for(backend: str, folder: Path, database: Path) -> Gateway:
    if backend == "file":
        return Gateway(folder, "--backends", "file", variables={"TRACELET_SHUTDOWN_TIMEOUT": "60"})
    shutil.copy(database, folder / "mlflow.db")
    option = f"mlflow.tracking_uri=sqlite:///{folder}/mlflow.db"
    return Gateway(folder, "--backends", "mlflow", "--option", option)


def measure_end_to_end(
    backend: str, points: int, repeats: int, database: Path
) -> tuple[Figure, Figure, Figure]:
    """Points a second, CPU microseconds a point, and the share of the time in which the process computed."""
    rates: list[float] = []
    costs: list[float] = []
    shares: list[float] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name, gateway_for(backend, Path(name), database) as gateway:
            run_id = uuid.uuid4().hex
            data = requests(run_id, points)
            count = len(data) * EXEMPLARS
            delivered = f'tracelet_gateway_points_delivered_total{{otel_component_name="{backend}"}}'
            with Client("grpc", gateway.grpc) as client:
                client.accept(Job("warm-up").steps("x", range(TAGS)))
            gateway.wait_for(delivered, TAGS)
            sending = Sending(gateway.grpc, data)
            process = psutil.Process(gateway.process.pid)
            before, started = process.cpu_times(), time.perf_counter()
            sending.go()
            while (found := gateway.measured()[delivered]) < TAGS + count:
                assert found >= 0
                time.sleep(0.05)
            seconds, after = time.perf_counter() - started, process.cpu_times()
            used = after.user + after.system - before.user - before.system
            rates.append(count / seconds)
            costs.append(used / count * 1e6)
            shares.append(used / seconds)
            gateway.stop(120)
    return figure(rates), figure(costs), figure(shares)


# -- runs -------------------------------------------------------------------------------------------------


def measure_runs(runs: int, rounds: int, database: Path) -> list[float]:
    """MiB of the gateway's process after each round, in which every run sends once."""
    sizes: list[float] = []
    with tempfile.TemporaryDirectory() as name, gateway_for("mlflow", Path(name), database) as gateway:
        process = psutil.Process(gateway.process.pid)
        ids = [uuid.uuid4().hex for _ in range(runs)]
        delivered = 'tracelet_gateway_points_delivered_total{otel_component_name="mlflow"}'
        with Client("grpc", gateway.grpc) as client:
            for round_ in range(rounds):
                for run_id in ids:
                    assert client.send("metrics", request(run_id, round_ * 10, 10 * TAGS)).code == "OK"
                gateway.wait_for(delivered, runs * (round_ + 1) * 10 * TAGS, timeout=600)
                sizes.append(process.memory_info().rss / 2**20)
        assert gateway.measured()['tracelet_gateway_runs{state="open"}'] == runs
        gateway.stop(120)
    return sizes


# -- table ------------------------------------------------------------------------------------------------


def new_database(folder: Path) -> Path:
    """An empty database of MLflow: making one takes seconds, copying it does not."""
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{folder}/empty.db").search_experiments()
    return folder / "empty.db"


def show(name: str, value: Figure, unit: str, form: str) -> None:
    """A line of the table."""
    low, high = format(value.low, form), format(value.high, form)
    print(f"{name:<40}{format(value.median, form):>12} {unit}  ({low} to {high})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9, help="in which each of the runs sends once")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--send", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        send(options.send)
        return
    logging.disable(logging.WARNING)
    figures: dict[str, Any] = {}
    missed: list[str] = []
    print(f"{options.points:,} points, {options.repeats} repeats: median (lowest to highest)", flush=True)
    for name, rate in measure_decode(options.repeats).items():
        figures[f"decode, {name}"] = rate._asdict()
        show(f"decode, {name}", rate, "points/s", ",.0f")
        if name.startswith("1,000") and rate.median < DECODE_TARGET:
            missed.append(f"decode: {rate.median:,.0f} points/s, {DECODE_TARGET:,} wanted")
    with tempfile.TemporaryDirectory() as folder:
        database = new_database(Path(folder))
        for backend in ("mlflow", "file"):
            rate, cost, share = measure_end_to_end(backend, options.points, options.repeats, database)
            parts = measure_parts(backend, options.points, options.repeats, database)
            bound = max(parts, key=lambda part: parts[part].median)
            show(f"{backend}, end to end", rate, "points/s", ",.0f")
            show("  CPU of the gateway", cost, "µs/point", ".2f")
            print(f"{'  of one core, while it works':<40}{share.median:>12.0%}")
            for part, value in parts.items():
                show(f"    {part}", value, "µs/point", ".2f")
            print(f"  the bound is: {bound}", flush=True)
            figures[backend] = {
                "points_per_s": rate._asdict(),
                "cpu_us": cost._asdict(),
                "cores": share._asdict(),
                "parts_us": {part: value._asdict() for part, value in parts.items()},
                "bound": bound,
            }
        sizes = measure_runs(options.runs, options.rounds, database)
    third = max(1, len(sizes) // 3)
    growth = max(sizes[-third:]) / max(sizes[third : 2 * third] or sizes[:1]) - 1
    print(f"{options.runs} runs at once, MiB by round".ljust(40) + " ".join(f"{size:.0f}" for size in sizes))
    figures["runs"] = {"runs": options.runs, "rss_mib": sizes, "growth": growth}
    if growth > 0.1:
        missed.append(f"memory: {growth:.0%} more in the last third than in the second")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for line in missed:
        print(f"missed: {line}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
