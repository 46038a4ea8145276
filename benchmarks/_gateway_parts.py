"""The CPU time of a gateway, part by part, each part measured alone in this process."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _gateway_load import EXEMPLARS, TAGS, request, requests, sender

from tracelet_otel.backends.deliveries import make_tracker
from tracelet_otel.backends.names import TRACKER_GROUP
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.file import FileDestination
from tracelet_otel.delivery.spool.queue import Queue
from tracelet_otel.delivery.spool.spool import Durability, Spool
from tracelet_otel.foundation.entry_points import find
from tracelet_otel.gateway.budget import Budget
from tracelet_otel.gateway.deduplication import Deduplicator
from tracelet_otel.gateway.grpc_server import GrpcServer
from tracelet_otel.gateway.intake import ACCEPTED
from tracelet_otel.gateway.validation import validate_metrics
from tracelet_otel.otlp.decoding import decode_series, parse_metrics
from tracelet_otel.tracker.exporter import TrackerExporter


def cpu(work: Callable[[], object]) -> float:
    """Seconds of CPU time of this process, all threads."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure_decode(repeats: int) -> dict[str, list[float]]:
    """Points a second of CPU time, with 1,000 exemplars a data point, and with one."""
    found: dict[str, list[float]] = {}
    for name, tags in (("1,000 exemplars a data point", 1), ("1 exemplar a data point", 1000)):
        data = [request("r" * 32, first * 1000, 1000, tags) for first in range(100)]

        def decode(data: list[bytes] = data) -> None:
            for one in data:
                for series in decode_series(parse_metrics(one)):
                    assert series.points

        decode()
        found[name] = [1e5 / cpu(decode) for _ in range(repeats)]
    return found


def measure_parts(backend: str, points: int, repeats: int, database: Path) -> dict[str, list[float]]:
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
    return found


def receive(data: list[bytes]) -> float:
    """Runs a server that accepts everything; the cost of sending is not counted."""

    class Accepting:
        def take(self, signal: str, data: bytes, source: str = "") -> object:
            return ACCEPTED

    async def serve() -> float:
        with ThreadPoolExecutor(4) as pool:
            intake: Any = Accepting()
            server = GrpcServer(
                intake, "127.0.0.1:0", executor=pool, budget=Budget(), authorize=None, tls=None
            )
            await server.start()
            loop = asyncio.get_running_loop()
            go = await loop.run_in_executor(None, sender, f"127.0.0.1:{server.port}", data)
            used = await loop.run_in_executor(None, cpu, go)
            await server.stop(1)
            return used

    return asyncio.run(serve())


def check(data: list[bytes]) -> float:
    """Parses and validates each request, and finds what is new in it."""
    deduplicator = Deduplicator()

    def work() -> None:
        for one in data:
            for element in validate_metrics(parse_metrics(one)).elements:
                parts = deduplicator.missing(element)
                assert parts is not None
                deduplicator.add(element.run_id, element.key, parts)

    return cpu(work)


def durable(data: list[bytes], folder: Path) -> float:
    """Writes each request to a spool, and syncs it."""
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
    """What delivery does: the tracker's calls, and for a tracker the decoding before them."""
    batches = [Batch(metrics=one, points=EXEMPLARS, size=len(one)) for one in data]
    if backend == "file":
        target = FileDestination(folder / "file", max_bytes=2**34)
        yield "write", cpu(lambda: [target.send(batch) for batch in batches])
        target.close()
        return
    decoding = cpu(lambda: [sum(1 for _ in decode_series(parse_metrics(one))) for one in data])
    yield "decode", decoding
    shutil.copy(database, folder / "mlflow.db")
    entry_point = find(TRACKER_GROUP, "mlflow")
    assert entry_point is not None
    tracker = make_tracker("mlflow", entry_point, {"tracking_uri": f"sqlite:///{folder}/mlflow.db"})
    exporter = TrackerExporter(tracker, companions=folder / "companions")
    exporter.load()
    exporter.connect()
    exporter.send(Batch(metrics=request(uuid.uuid4().hex, 0, TAGS)))  # the client's own first time
    yield "write", cpu(lambda: [exporter.send(batch) for batch in batches]) - decoding
    exporter.close()
