"""What the gateway's benchmark sends, and the process that sends it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from tests.gateway.process import Client
from tracelet_otel import semconv

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
        list(pool.map(lambda part: _send_part(address, part), [data[n::SENDERS] for n in range(SENDERS)]))


def _send_part(address: str, data: list[bytes]) -> None:
    with Client("grpc", address) as client:
        for one in data:
            while client.send("metrics", one).code != "OK":
                time.sleep(0.05)
