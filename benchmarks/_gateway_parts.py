"""What the gateway's benchmark sends, and the parts of a gateway, each measured alone in this process."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import _bench
from _bench import timed
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from tests.gateway.process import Client
from tracelet_otel import semconv
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

TAGS = 10
EXEMPLARS = 4_000
"""In each request."""
SENDERS = 4
NOW = 1_700_000_000_000_000_000


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


def sender(address: str, data: list[bytes]) -> Callable[[], None]:
    """Starts a process that sends the requests, so that its CPU time is not counted here.

    Returns:
        A function that lets it send, and returns when everything was accepted.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    process = context.Process(target=_send, args=(address, data, barrier), daemon=True)
    process.start()
    barrier.wait(60)

    def go() -> None:
        barrier.wait(60)
        process.join()
        assert process.exitcode == 0

    return go


def _send(address: str, data: list[bytes], barrier: Barrier) -> None:
    barrier.wait(60)
    barrier.wait(60)
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(partial(_send_part, address), [data[n::SENDERS] for n in range(SENDERS)]))


def _send_part(address: str, data: list[bytes]) -> None:
    with Client("grpc", address) as client:
        for one in data:
            while client.send("metrics", one).code != "OK":
                time.sleep(0.05)


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
        found[name] = [1e6 / timed(decode, 100_000).process for _ in range(repeats)]
    return found


def measure_parts(backend: str, points: int) -> dict[str, float]:
    """Microseconds of CPU time a point, by part."""
    data = requests(uuid.uuid4().hex, points)
    with _bench.new_folder() as folder:
        return {
            "receive": receive(data),
            "check": check(data),
            "durable": durable(data, folder),
            **write(backend, data, folder),
        }


def cpu(work: Callable[[], object], data: list[bytes]) -> float:
    """Microseconds a point."""
    return timed(work, len(data) * EXEMPLARS).process


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
            used = await loop.run_in_executor(None, cpu, go, data)
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

    return cpu(work, data)


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

    used = cpu(work, data)
    queue.close()
    return used


def write(backend: str, data: list[bytes], folder: Path) -> dict[str, float]:
    """What delivery does: the tracker's calls, and for a tracker the decoding before them."""
    batches = [Batch(metrics=one, points=EXEMPLARS, size=len(one)) for one in data]
    if backend == "file":
        with closing(FileDestination(folder / "file", max_bytes=2**34)) as target:
            return {"write": cpu(lambda: [target.send(batch) for batch in batches], data)}
    decoding = cpu(lambda: [sum(1 for _ in decode_series(parse_metrics(one))) for one in data], data)
    uri = _bench.make_mlflow(folder / "mlflow.db")
    entry_point = find(TRACKER_GROUP, "mlflow")
    assert entry_point is not None
    tracker = make_tracker("mlflow", entry_point, {"tracking_uri": uri})
    with closing(TrackerExporter(tracker, companions=folder / "companions")) as exporter:
        exporter.load()
        exporter.connect()
        exporter.send(Batch(metrics=request(uuid.uuid4().hex, 0, TAGS)))  # the client's own first time
        writing = cpu(lambda: [exporter.send(batch) for batch in batches], data)
    return {"decode": decoding, "write": writing - decoding}
