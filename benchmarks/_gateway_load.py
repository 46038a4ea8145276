"""What the gateway's benchmark sends, and the process that sends it.

    python benchmarks/_gateway_load.py ADDRESS

The process reads the requests from stdin, each after its length in four bytes, up to a length of 0. It prints
"ready", sends everything to the address once stdin has two more bytes, and ends when everything was accepted.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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


class Sending:
    """Sends everything from another process, so that its CPU time is not counted here."""

    def __init__(self, address: str, data: list[bytes]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        for one in data:
            self._process.stdin.write(len(one).to_bytes(4, "big") + one)
        self._process.stdin.write(bytes(4))
        self._process.stdin.flush()
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def go(self) -> None:
        """Starts to send; returns when everything was accepted."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go")
        self._process.stdin.close()
        assert self._process.wait() == 0
        assert self._process.stdout is not None
        self._process.stdout.close()


def send(address: str) -> None:
    """What the other process does."""
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


if __name__ == "__main__":
    send(sys.argv[1])
