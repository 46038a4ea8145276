"""Through a real Collector: rotel, of PyPI."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from math import isnan
from pathlib import Path

import pytest

import tracelet_otel
from tests.delivery.otlp.receiver import PROTOCOLS, Inbox, Protocol, receiver
from tracelet_otel import recording

rotel = pytest.importorskip("rotel", reason="there is no wheel of it for this machine")

POINTS = 10_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def collector(exporter: Protocol, endpoint: str) -> Generator[dict[Protocol, str]]:
    """A running collector that passes everything on; its own endpoints by protocol."""
    ports: dict[Protocol, int] = {protocol: free_port() for protocol in PROTOCOLS}
    command = [
        *(str(Path(rotel.__file__).parent / "rotel-agent"), "start", "--exporter", "otlp"),
        *("--otlp-grpc-endpoint", f"127.0.0.1:{ports['grpc']}"),
        *("--otlp-http-endpoint", f"127.0.0.1:{ports['http/protobuf']}"),
        *("--otlp-exporter-endpoint", endpoint, "--batch-timeout", "100ms"),
        *("--otlp-exporter-protocol", "grpc" if exporter == "grpc" else "http"),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROTEL_")}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        endpoints: dict[Protocol, str] = {
            protocol: f"http://127.0.0.1:{port}" for protocol, port in ports.items()
        }
        yield endpoints
    finally:
        child.terminate()
        child.wait(20)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_point_and_event_passes_a_collector(protocol: Protocol) -> None:
    values = [step / 7 if step % 1_000 else float("nan") for step in range(POINTS)]
    with receiver(protocol) as inbox, collector(protocol, inbox.endpoint) as endpoints:
        backend = {"endpoint": endpoints[protocol], "protocol": protocol, "compression": "gzip"}
        session = tracelet_otel.configure({"otlp": backend}, run_id="r")
        for step, value in enumerate(values):
            recording.scalar("loss", value, step, time_unix_nano=10**18 + step)
        recording.event(
            recording.LoggedEvent("image", tag="picture", payload=bytes(2_000_000), mime_type="image/png")
        )
        tracelet_otel.shutdown()
        counts = session.pipeline.deliveries[0].counts
        assert (counts.delivered_points, counts.dropped_points) == (POINTS, 0)
        inbox.wait_for(lambda: _points(inbox) == POINTS and bool(inbox.events("status")))
    arrived = {point.step: point for point in inbox.points()["loss"]}
    assert len(arrived) == POINTS
    for step, value in enumerate(values):
        point = arrived[step]
        assert point.time_unix_nano == 10**18 + step
        assert point.value == value or (isnan(value) and isnan(point.value))
    assert [len(record.body.bytes_value) for record in inbox.events("image")] == [2_000_000]


def _points(inbox: Inbox) -> int:
    return sum(map(len, inbox.points().values()))
