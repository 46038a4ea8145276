"""The gateway as a process, over both protocols."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.gateway.process import Client, Gateway, Protocol
from tests.gateway.support import MB, Job, Key, key, rebatched
from tests.support import mlflow_content
from tests.support.contract_data import Request
from tests.support.fifth_subject import FifthSubject
from tests.support.scripts import clean_environment
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics
from tracelet_otel.otlp.json import logs_line, metrics_line

JSON = ("--backends", "json_folder")
PROTOCOLS: tuple[Protocol, Protocol] = ("grpc", "http")


def points(folder: Path, run_id: str) -> Counter[Key]:
    """What the tracker of JSON files has."""
    found = FifthSubject(folder / "json").points(run_id)
    return Counter(key(tag, *point) for tag, items in found.items() for point in items)


def client(gateway: Gateway, protocol: Protocol, **options: Any) -> Client:
    return Client(protocol, gateway.grpc if protocol == "grpc" else gateway.http, **options)


def several(run_id: str, parts: int = 10) -> tuple[Job, list[Request]]:
    """A job, and what it sends up to its end."""
    job = Job(run_id, name="n", project="p", experiment="e")
    requests = job.begin()
    job.log("loss", -1, math.nan)
    for part in range(parts):
        requests += job.steps("loss", range(part * 100, part * 100 + 100), lambda step: 1 / (step + 3))
        requests += job.record("text", "note", part, b"%d" % part, "text/plain")
    return job, requests + job.end("finished")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_everything_arrives_once_though_it_is_sent_twice_and_the_gateway_is_killed(
    tmp_path: Path, protocol: Protocol, compressed: bool
) -> None:
    job, requests = several("run-a")
    chance = random.Random(f"{protocol} {compressed}")
    answered = 0
    for attempt in range(3):  # killed twice, in the middle of what is sent
        with Gateway(tmp_path, *JSON) as gateway, client(gateway, protocol, compressed=compressed) as sender:
            if attempt < 2:
                stop = answered + len(requests) // 3
                while answered < stop:
                    sender.accept([requests[answered]])
                    answered += 1
                sender.accept([requests[answered - 1]])  # its answer was not heard
                gateway.kill()
                continue
            sender.accept(requests, rebatched(requests[1:-1], chance))
            gateway.wait_for('tracelet_gateway_runs{state="ended"}', 1)
            assert gateway.stop() == 0
    assert points(tmp_path, "run-a") == job.keys
    subject = FifthSubject(tmp_path / "json")
    assert subject.status("run-a") == "finished"
    assert sorted(media.content for media in subject.media("run-a")) == [b"%d" % part for part in range(10)]


def test_mlflow_has_every_point_once_after_a_kill(tmp_path: Path, database: Path) -> None:
    job, requests = several("run-a", parts=6)
    backends = ("--backends", "mlflow", "--option", f"mlflow.tracking_uri=sqlite:///{database}")
    half = len(requests) // 2
    with Gateway(tmp_path, *backends) as gateway, client(gateway, "grpc") as sender:
        sender.accept(requests[:half], requests[:half])
        gateway.wait_for('tracelet_gateway_points_delivered_total{otel_component_name="mlflow"}', 1)
        gateway.kill()
    with Gateway(tmp_path, *backends) as gateway, client(gateway, "http") as sender:
        sender.accept(requests)
        gateway.wait_for("tracelet_gateway_points_received_total", 601)
        assert gateway.stop() == 0
    with Gateway(tmp_path, *backends) as gateway:  # what the stop left
        assert gateway.heard("listening")
        deadline = time.monotonic() + 60
        while any(value for name, value in gateway.measured().items() if "queue" in name):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        gateway.stop()
    [run] = mlflow_content.runs(database)
    assert (run.name, run.status) == ("n", "FINISHED")
    [stored] = mlflow_content.points(database).values()
    assert Counter((point.step, repr(point.value)) for point in stored) == Counter(
        (point.step, repr(point.value)) for point in job.logged
    )


def test_spans_are_accepted_and_not_kept(tmp_path: Path) -> None:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="s")
    with Gateway(tmp_path, *JSON) as gateway:
        for protocol in PROTOCOLS:
            with client(gateway, protocol) as sender:
                assert sender.send("traces", request.SerializeToString()).code in ("OK", "200")


def test_poison_is_refused_once_and_logged(tmp_path: Path) -> None:
    job = Job("run-a")
    [request] = job.steps("x", range(2))
    message = ExportMetricsServiceRequest.FromString(request.data)
    message.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points.add().exemplars.add()
    with Gateway(tmp_path, *JSON) as gateway:
        for protocol in PROTOCOLS:
            with client(gateway, protocol) as sender:
                reply = sender.send("metrics", b"\xff\xff\xff")
                if protocol == "grpc":
                    assert reply.code == "INVALID_ARGUMENT"
                    status = Status.FromString(reply.headers["grpc-status-details-bin"])
                else:
                    assert reply.code == "400"
                    assert reply.headers["content-type"] == "application/x-protobuf"
                    status = Status.FromString(reply.content)
                assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
                assert "not an OTLP metrics request" in status.message
                reply = sender.send("metrics", message.SerializeToString())
                assert reply.code in ("OK", "200")
                response = ExportMetricsServiceResponse.FromString(reply.content)
                assert response.partial_success.rejected_data_points == 1
                assert "without tracelet.tag" in response.partial_success.error_message
        gateway.wait_for('tracelet_gateway_points_delivered_total{otel_component_name="json_folder"}', 2)
        measured = gateway.measured()
        assert measured["tracelet_gateway_points_rejected_total"] == 2
        assert gateway.stop() == 0
        refused = [line for line in gateway.lines if "refused for ever" in line["message"]]
        assert len(refused) == 2  # each reason once
    assert points(tmp_path, "run-a") == job.keys


def check_unavailable(reply: Any, protocol: Protocol, message: str) -> None:
    """An answer after which a Collector keeps the data and comes again."""
    if protocol == "http":
        assert reply.code == "503"
        assert int(reply.headers["retry-after"]) >= 1
        status = Status.FromString(reply.content)
    else:
        assert reply.code == "UNAVAILABLE"
        info = RetryInfo.FromString(reply.headers["google.rpc.retryinfo-bin"])
        assert info.retry_delay.ToNanoseconds() > 0
        status = Status.FromString(reply.headers["grpc-status-details-bin"])
        packed = RetryInfo()
        assert status.details[0].Unpack(packed)
        assert packed == info
        assert message in reply.headers["details"]
    assert status.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert message in status.message


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_spool_at_its_limit_and_a_tracker_that_is_down(tmp_path: Path, protocol: Protocol) -> None:
    """What is acknowledged while it is down arrives; then the sender has to wait."""
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "runs").write_text("in the way")  # the tracker's folder cannot be made
    limit = {"TRACELET_MAX_SPOOL_BYTES": "50000"}
    job = Job("run-a")
    requests = job.begin() + [
        request for part in range(20) for request in job.steps("x", range(part * 100, part * 100 + 100))
    ]
    with Gateway(tmp_path, *JSON, variables=limit) as gateway, client(gateway, protocol) as sender:
        replies = [sender.send(request.signal, request.data) for request in requests]
        taken = [reply.code in ("OK", "200") for reply in replies]
        assert 5 < sum(taken) < 20
        check_unavailable(replies[-1], protocol, "has reached its limit")
        gateway.kill()
    (tmp_path / "json" / "runs").unlink()
    with Gateway(tmp_path, *JSON) as gateway, client(gateway, protocol) as sender:
        sender.accept(requests)
        gateway.wait_for('tracelet_gateway_points_delivered_total{otel_component_name="json_folder"}', 2000)
        assert gateway.stop() == 0
    assert points(tmp_path, "run-a") == job.keys


def test_a_full_disk_is_unavailable(tmp_path: Path) -> None:
    """As far as a limit of the size of files is one: the write fails in the middle."""
    job = Job("run-a")
    requests = job.begin() + job.steps("x", range(4000)) + job.steps("x", range(4000, 4001))
    with Gateway(tmp_path, *JSON) as gateway:
        gateway.heard("listening")
        # as on a full disk: an error, no signal (Python ignores SIGXFSZ)
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        for protocol in PROTOCOLS:
            with client(gateway, protocol) as sender:
                replies = [sender.send(request.signal, request.data) for request in requests]
                assert replies[0].code in ("OK", "200")
                check_unavailable(replies[1], protocol, "No space left on device")
        resource.prlimit(
            gateway.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        with client(gateway, "grpc") as sender:
            sender.accept(requests)
        gateway.wait_for('tracelet_gateway_points_delivered_total{otel_component_name="json_folder"}', 4001)
        assert gateway.stop() == 0
    assert points(tmp_path, "run-a") == job.keys


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_too_much_in_hand_is_unavailable(tmp_path: Path, protocol: Protocol) -> None:
    """A disk that hangs: a pipe in place of the spool's file, which waits to be opened for a reader."""
    job = Job("run-a")
    begin, points_ = job.begin(), job.steps("x", range(100))
    with Gateway(tmp_path, *JSON) as gateway:
        address = gateway.grpc if protocol == "grpc" else gateway.http
        file = tmp_path / "state/tracelet-otel/spool/gateway-default/json_folder/000001.otlp"
        os.mkfifo(file)
        replies: list[Any] = []
        refused = threading.Semaphore(0)

        def send() -> None:
            with Client(protocol, address) as sender:
                reply = sender.send("metrics", points_[0].data)
                replies.append(reply)
                refused.release()

        threads = [threading.Thread(target=send) for _ in range(80)]
        for thread in threads:
            thread.start()
        for _ in range(80 - 64):  # all others are in hand
            assert refused.acquire(timeout=60)
        for reply in tuple(replies):
            check_unavailable(reply, protocol, "64 requests are in hand")
        assert gateway.measured()["tracelet_gateway_requests_active"] == 64
        reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # the disk comes back
        file.unlink(missing_ok=True)  # unless the gateway is done with it already
        for thread in threads:
            thread.join()
        os.close(reader)
        codes = Counter(reply.code for reply in replies)
        assert codes == {
            "OK" if protocol == "grpc" else "200": 63,
            "UNAVAILABLE" if protocol == "grpc" else "503": 17,  # with the one that had the pipe
        }
        assert gateway.measured()["tracelet_gateway_requests_active"] == 0
        with client(gateway, protocol) as sender:
            sender.accept(begin, points_)
        assert gateway.stop(60) == 0
    assert points(tmp_path, "run-a") == job.keys


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path, protocol: Protocol) -> None:
    """768 MiB in less than one."""
    size = 768 * MB
    with Gateway(tmp_path, *JSON) as gateway:
        process = psutil.Process(gateway.process.pid)
        address = gateway.http if protocol == "http" else gateway.grpc
        before = process.memory_info().rss
        peak = [before]
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.005):
                peak[0] = max(peak[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        if protocol == "http":
            compressed = gzip.compress(bytes(64 * MB), 1) * (size // (64 * MB))
            headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip"}
            found = httpx.post(f"http://{address}/v1/metrics", content=compressed, headers=headers)
            code = str(found.status_code)
        else:  # in a process of its own: a client makes a bomb of what it has in memory
            code = subprocess.run(
                [sys.executable, "-c", BOMB, address, str(size)],
                env=clean_environment(),
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
        ended.set()
        watcher.join()
        assert code == {"http": "413", "grpc": "RESOURCE_EXHAUSTED"}[protocol]
        assert peak[0] - before < 300 * MB
        with client(gateway, protocol) as sender:  # it goes on
            job = Job("run-a")
            sender.accept(job.steps("x", range(3)))


BOMB = """
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.max_send_message_length", -1)])
call = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
try:
    call(bytes(int(sys.argv[2])), compression=grpc.Compression.Gzip)
except grpc.RpcError as error:
    print(error.code().name)
"""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_limit_is_64_mib(tmp_path: Path, protocol: Protocol) -> None:
    """Just below it is taken, as far as it is metrics; above it is not."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="x" * (64 * MB - 100))
    assert metric.name
    below = request.SerializeToString()
    metric.name += "x" * 100
    with Gateway(tmp_path, *JSON) as gateway:
        for compressed in (False, True):
            with client(gateway, protocol, compressed=compressed) as sender:
                assert sender.send("metrics", below).code in ("OK", "200")
                assert sender.send("metrics", request.SerializeToString()).code in (
                    "RESOURCE_EXHAUSTED",
                    "413",
                )


def test_http_says_what_it_does_not_take(tmp_path: Path) -> None:
    job, requests = several("run-a", parts=3)
    with Gateway(tmp_path, *JSON) as gateway, httpx.Client(base_url=f"http://{gateway.http}") as web:
        assert web.get("/healthz").status_code == 200
        assert web.get("/readyz").status_code == 200
        assert web.get("/v1/metrics").status_code == 405
        assert web.post("/v1/other").status_code == 404
        protobuf = {"content-type": "application/x-protobuf"}
        assert web.post("/v1/metrics", content=b"", headers={"content-type": "text/plain"}).status_code == 415
        coded = {**protobuf, "content-encoding": "br"}
        assert web.post("/v1/metrics", content=b"", headers=coded).status_code == 415
        zipped = {**protobuf, "content-encoding": "gzip"}
        for content in (b"no gzip", gzip.compress(requests[0].data)[:-9]):
            found = web.post("/v1/logs", content=content, headers=zipped)
            assert (found.status_code, found.headers["content-type"]) == (400, "application/x-protobuf")
        two = gzip.compress(requests[0].data[:10]) + gzip.compress(requests[0].data[10:])
        assert web.post("/v1/logs", content=two, headers=zipped).status_code == 200
        chunks = (requests[1].data[start : start + 1000] for start in range(0, len(requests[1].data), 1000))
        assert web.post("/v1/metrics", content=chunks, headers=protobuf).status_code == 200
        for request in requests[2:]:  # as JSON
            if request.signal == "metrics":
                line = metrics_line(parse_metrics(request.data))
            else:
                line = logs_line(parse_logs(request.data))
            found = web.post(
                f"/v1/{request.signal}",
                content=line,
                headers={"content-type": "application/json; charset=utf-8"},
            )
            assert (found.status_code, found.json()) == (200, {})
        found = web.post("/v1/logs", content=b"{", headers={"content-type": "application/json"})
        assert (found.status_code, found.json()["code"]) == (400, 3)
        gateway.wait_for('tracelet_gateway_runs{state="ended"}', 1)
        assert gateway.stop() == 0
    assert points(tmp_path, "run-a") == job.keys


def test_its_own_metrics_say_what_happened(tmp_path: Path) -> None:
    job, requests = several("run-a", parts=3)
    with Gateway(tmp_path, *JSON) as gateway, client(gateway, "grpc") as sender:
        sender.accept(requests, requests)
        gateway.wait_for('tracelet_gateway_records_delivered_total{otel_component_name="json_folder"}', 3)
        gateway.wait_for('tracelet_gateway_points_delivered_total{otel_component_name="json_folder"}', 301)
        measured = gateway.measured()
        assert measured["tracelet_gateway_points_received_total"] == 602
        assert measured['tracelet_gateway_duplicates_total{otel_component_name="json_folder"}'] == 9
        assert measured['tracelet_gateway_runs{state="ended"}'] == 1
        assert measured['tracelet_gateway_queue_points{otel_component_name="json_folder"}'] == 0
        assert measured['tracelet_gateway_points_dropped_total{otel_component_name="json_folder"}'] == 0
        assert gateway.stop() == 0
        stopped = gateway.heard("stopped")
        assert (stopped["delivered_points"], stopped["waiting_points"]) == (301, 0)
        assert all(line.startswith("{") for line in gateway.raw)
    assert points(tmp_path, "run-a") == job.keys


def test_a_stop_answers_what_is_in_hand_and_keeps_the_rest(tmp_path: Path) -> None:
    job = Job("run-a")
    requests = job.begin() + [
        request for part in range(60) for request in job.steps("x", range(part * 500, part * 500 + 500))
    ]
    accepted: list[Request] = []
    with Gateway(tmp_path, *JSON) as gateway, client(gateway, "grpc") as sender:

        def send() -> None:
            for request in requests:
                if sender.send(request.signal, request.data).code != "OK":
                    return
                accepted.append(request)

        thread = threading.Thread(target=send)
        thread.start()
        gateway.wait_for("tracelet_gateway_points_received_total", 2000)
        assert gateway.stop() == 0
        thread.join()
    assert 4 < len(accepted) <= len(requests)
    with Gateway(tmp_path, *JSON) as gateway, client(gateway, "grpc") as sender:
        sender.accept(requests[len(accepted) :], job.end("finished"))
        gateway.wait_for('tracelet_gateway_runs{state="ended"}', 1)
        gateway.stop()
    assert points(tmp_path, "run-a") == job.keys


def test_two_gateways_never_share_a_spool(tmp_path: Path) -> None:
    with Gateway(tmp_path, *JSON) as first:
        first.heard("listening")
        with Gateway(tmp_path, *JSON) as second:
            assert second.process.wait(30) == 2
            second._reader.join(5)
            assert "give this one a --name of its own" in "".join(second.raw)
        with Gateway(tmp_path, *JSON, "--name", "other") as third:
            third.heard("listening")
            assert third.stop() == 0
        assert first.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs a backend"),
        (("--backends", "console"), "it delivers to"),
        (("--backends", "json_folder", "--option", "mlflow.x=1"), "there is no backend mlflow"),
        (("--backends", "json_folder", "--option", "json_folder.x=1"), "does not take these options"),
        (("--backends", "json_folder", "--name", "a/b"), "--name"),
        (("--backends", "json_folder", "--grpc", "nowhere"), "must look like"),
        (("--backends", "json_folder", "--grpc", "off", "--http", "off"), "neither"),
        (("--backends", "json_folder", "--http", "0.0.0.0:0"), "--insecure"),
        (("--backends", "json_folder", "--grpc", ":0"), "--insecure"),
        (("--backends", "json_folder", "--token-file", "missing"), "--token-file"),
        (("--backends", "json_folder", "--tls-cert", "missing"), "belong together"),
        (("--config", "missing.json"), "cannot be read"),
    ],
)
def test_a_wrong_option_is_said_at_once(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    with Gateway(tmp_path, *arguments) as gateway:
        assert gateway.process.wait(30) == 2
        gateway._reader.join(5)
        assert message in "".join(gateway.raw)
        assert "Traceback" not in "".join(gateway.raw)


def test_backends_and_routes_from_a_file(tmp_path: Path) -> None:
    config = tmp_path / "backends.json"
    config.write_text(json.dumps({"json_folder": {"include": ["loss"], "kinds": ["scalar"]}, "file": None}))
    job = Job("run-a")
    with Gateway(tmp_path, "--config", config) as gateway, client(gateway, "http") as sender:
        sender.accept(job.begin(), job.steps("loss", range(5)), job.steps("other", range(5)))
        gateway.wait_for('tracelet_gateway_points_delivered_total{otel_component_name="file"}', 10)
        gateway.wait_for('tracelet_gateway_points_delivered_total{otel_component_name="json_folder"}', 5)
        assert gateway.stop() == 0
    assert {found[0] for found in points(tmp_path, "run-a")} == {"loss"}
    [written] = (tmp_path / "state").rglob("*-gateway-*/file")
    assert list(written.glob("*.jsonl"))


def test_replay_never_removes_the_spool_of_a_gateway_that_runs(tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "runs").write_text("in the way")
    job = Job("run-a")
    command = [sys.executable, "-m", "tracelet_otel.cli", "replay", "--backend", "json_folder", "--remove"]
    command += [str(tmp_path / "state" / "tracelet-otel" / "spool")]
    with Gateway(tmp_path, *JSON) as gateway, client(gateway, "grpc") as sender:
        sender.accept(job.begin(), job.steps("x", range(50)), job.end("finished"))
        variables = {**gateway.environment, "JSON_FOLDER": str(tmp_path / "replayed" / "runs")}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert "a gateway or an agent uses it" in done.stdout, (done.stdout, done.stderr)
        gateway.kill()
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert "removed" in done.stdout, (done.stdout, done.stderr)
    found = FifthSubject(tmp_path / "replayed").points("run-a")
    assert Counter(key("x", *point) for point in found["x"]) == job.keys
