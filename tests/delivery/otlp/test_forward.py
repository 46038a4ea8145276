"""Backend ``otlp``: what a session forwards, and what becomes of it when the receiver does not take it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
from typer.testing import CliRunner

import tracelet_otel
from tests.delivery.otlp.receiver import PROTOCOLS, Inbox, Protocol, Reply, receiver
from tests.delivery.spool.test_spool import metrics
from tracelet_otel import distro, recording, semconv
from tracelet_otel.cli.main import app
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.otlp.forward import Forward
from tracelet_otel.foundation.errors import TransientError
from tracelet_otel.otlp.decoding import decode_attributes, run_info
from tracelet_otel.otlp.decoding import decode_records as decoded
from tracelet_otel.session import pipeline
from tracelet_otel.session.session import Session
from tracelet_otel.settings import ConfigurationError


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return request.param


@pytest.fixture
def inbox(protocol: Protocol) -> Iterator[Inbox]:
    with receiver(protocol) as inbox:
        yield inbox


def configure(inbox: Inbox, protocol: Protocol, **settings: Any) -> Session:
    backend = {"endpoint": inbox.endpoint, "protocol": protocol, "timeout": 5}
    return tracelet_otel.configure({"otlp": backend}, run_name="first", project="p", **settings)


def counts(session: Session) -> tuple[int, int, int]:
    """Points that were captured, delivered and spooled."""
    (delivery,) = session.pipeline.deliveries
    found = delivery.counts
    return found.captured_points, found.delivered_points, found.spooled_points


def data_points(inbox: Inbox, name: str = semconv.SCALAR) -> list[NumberDataPoint]:
    return [
        point
        for request in inbox.metrics
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in (*metric.gauge.data_points, *metric.sum.data_points)
    ]


def sequences(inbox: Inbox, tag: str) -> list[int]:
    """The number of every point of a tag, as each data point's first exemplar says it."""
    numbers: list[int] = []
    for point in data_points(inbox):
        if decode_attributes(point.attributes)[semconv.TAG] == tag and point.exemplars:
            first = decode_attributes(point.exemplars[0].filtered_attributes)[semconv.SEQUENCE]
            numbers.extend(range(first, first + len(point.exemplars)))
    return numbers


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_everything_arrives_exact(protocol: Protocol, compression: str) -> None:
    values = [0.1, float("nan"), -0.0, float("inf"), 1e300, float("-inf"), 5e-324]
    with receiver(protocol) as inbox:
        backend = {"endpoint": inbox.endpoint, "protocol": protocol, "compression": compression}
        session = tracelet_otel.configure(
            {"otlp": backend}, run_name="first", experiment="e", tags={"a": "b"}
        )
        for step in range(9_000):
            recording.scalar("loss", step / 7, step, time_unix_nano=10**18 + step)
        for step, value in enumerate(values):
            recording.scalar("edge", value, step)
        tracelet_otel.log_text("note", "hello", 3)
        session.pipeline.meter_provider.get_meter("theirs").create_counter("batches").add(7, {"gpu": 0})
        theirs = session.pipeline.logger_provider.get_logger("theirs")
        theirs.emit(LogRecord(body="their message", attributes={"n": 1}))
        tracelet_otel.shutdown()
        assert counts(session) == (9_007, 9_007, 0)
        assert session.pipeline.deliveries[0].counts.delivered_records == 1
    points = inbox.points()
    assert points["loss"] == [(step, step / 7, 10**18 + step) for step in range(9_000)]
    finite = [v for v in values if math.isfinite(v)]
    assert sorted(map(repr, (p.value for p in points["edge"]))) == sorted(map(repr, values))
    assert [p.value for p in points["edge"] if math.isfinite(p.value)] == finite
    assert max(len(point.exemplars) for point in data_points(inbox)) <= 4_096
    assert sum(point.as_int for point in data_points(inbox, "batches")[-1:]) == 7
    (text,) = inbox.events("text")
    assert text.body.bytes_value == b"hello"
    (run,) = (item for request in inbox.logs for item in decoded(request) if item.kind == "run")
    assert (run_info(run).name, run_info(run).tags) == ("first", {"a": "b"})
    (status,) = inbox.events("status")
    assert decode_attributes(status.attributes)[semconv.RUN_STATUS] == "finished"
    assert len(inbox.events("environment")) == 1
    (other,) = (record for _, record in inbox.records() if not record.event_name)
    assert other.body.string_value == "their message"
    last = inbox.requests[-1]
    assert last in inbox.logs  # the run's end, after its last point


def test_the_live_value_comes_now_and_then(
    protocol: Protocol, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(inbox, protocol, export_interval=20)
    recording.scalar("loss", 0.5, 0)
    assert tracelet_otel.flush()
    for step in range(10):  # the others' requests carry no quiet series
        recording.scalar("noise", 1.0, step)
        assert tracelet_otel.flush()
    quiet = [point for point in data_points(inbox) if not point.exemplars]
    assert quiet == []
    tracelet_otel.shutdown()

    monkeypatch.setattr(pipeline, "LIVE_INTERVAL_S", 0.05)
    configure(inbox, protocol, export_interval=20)
    recording.scalar("loss", 0.25, 0)
    inbox.wait_for(lambda: any(not point.exemplars for point in data_points(inbox)))
    quiet = [point for point in data_points(inbox) if not point.exemplars]
    assert {point.as_double for point in quiet} == {0.25}
    assert [point.value for point in inbox.points()["loss"]] == [0.5, 0.25]  # and it is no new point
    # A run that has ended is not live any more.
    with tracelet_otel.run("trial"):
        recording.scalar("of trial", 0.75, 0)
        assert tracelet_otel.flush()
    arrived = len(inbox.requests)
    inbox.wait_for(lambda: len(inbox.requests) > arrived + 4)
    late = {point.as_double for point in data_points(inbox)[-2:] if not point.exemplars}
    assert late == {0.25}
    tracelet_otel.shutdown()


def test_data_goes_out_under_the_resource_of_its_run(protocol: Protocol, inbox: Inbox) -> None:
    session = configure(inbox, protocol)
    recording.scalar("loss", 1.0, 0)
    with tracelet_otel.run("second", experiment="sweep", tags={"x": "y"}) as second:
        recording.scalar("loss", 2.0, 0)
        recording.scalar("loss", math.nan, 1)
        tracelet_otel.log_text("note", "of the second", 0)
    with tracelet_otel.run(run_id="third"):
        recording.scalar("loss", 3.0, 0)
        meter = session.pipeline.meter_provider.get_meter("theirs")
        meter.create_gauge("temperature").set(20.0)
    recording.scalar("loss", 1.5, 1)
    tracelet_otel.shutdown()
    found: dict[str, dict[str, Any]] = {}
    names = {semconv.RUN_ID, semconv.RUN_NAME, semconv.PROJECT, semconv.EXPERIMENT}
    for request in inbox.metrics:
        for resource in request.resource_metrics:
            described = decode_attributes(resource.resource.attributes)
            assert described["telemetry.sdk.language"] == "python"
            of_run = {key: value for key, value in described.items() if key in names}
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name not in (semconv.SCALAR, semconv.SCALAR_NONFINITE):
                        assert described[semconv.RUN_NAME] == "first"
                        continue
                    for point in (*metric.gauge.data_points, *metric.sum.data_points):
                        run_id = decode_attributes(point.attributes)[semconv.RUN_ID]
                        assert found.setdefault(run_id, of_run) == of_run
    default = next(run_id for run_id in found if run_id not in (second.id, "third"))
    assert found[default] == {semconv.RUN_ID: default, semconv.RUN_NAME: "first", semconv.PROJECT: "p"}
    assert found[second.id] == {
        semconv.RUN_ID: second.id,
        semconv.RUN_NAME: "second",
        semconv.PROJECT: "p",
        semconv.EXPERIMENT: "sweep",
    }
    assert found["third"][semconv.RUN_NAME] not in ("first", "second")  # it got a name as it opened
    for described, record in inbox.records():
        attributes = decode_attributes(record.attributes)
        assert described[semconv.RUN_ID] == attributes[semconv.RUN_ID]
        assert described[semconv.RUN_NAME] == found[attributes[semconv.RUN_ID]][semconv.RUN_NAME]
    assert {point.value for point in inbox.points()["loss"] if not math.isnan(point.value)} == {1, 2, 3, 1.5}


def test_a_run_that_names_itself_has_that_name_in_its_resource(protocol: Protocol, inbox: Inbox) -> None:
    tracelet_otel.configure({"otlp": {"endpoint": inbox.endpoint, "protocol": protocol}})
    recording.scalar("loss", 1.0, 0)
    tracelet_otel.shutdown()
    (run,) = (item for request in inbox.logs for item in decoded(request) if item.kind == "run")
    described = decode_attributes(inbox.metrics[0].resource_metrics[0].resource.attributes)
    assert described[semconv.RUN_NAME] == run_info(run).name != ""


def test_what_is_too_large_is_cut_and_sent_again(protocol: Protocol, inbox: Inbox) -> None:
    limit = 20_000
    inbox.answer = lambda request, size: Reply("too large", "larger than max") if size > limit else Reply()
    session = configure(inbox, protocol)
    for step in range(8_000):
        recording.scalar(f"tag{step % 3}", step / 7, step, time_unix_nano=10**18 + step)
    payloads = [bytes([number]) * 9_000 for number in range(10)]
    for number, payload in enumerate(payloads):
        recording.event(
            recording.LoggedEvent("image", tag="picture", step=number, payload=payload, mime_type="image/png")
        )
    tracelet_otel.shutdown()
    assert counts(session) == (8_000, 8_000, 0)
    points = inbox.points()
    for first in range(3):
        expected = [(step, step / 7, 10**18 + step) for step in range(first, 8_000, 3)]
        assert points[f"tag{first}"] == expected
        numbers = sequences(inbox, f"tag{first}")
        assert numbers == list(range(numbers[0], numbers[0] + len(expected)))
    for point in data_points(inbox):
        assert not point.exemplars or point.as_double == point.exemplars[-1].as_double
    assert [record.body.bytes_value for record in inbox.events("image")] == payloads
    refused = sum(size > limit for size in inbox.sizes)
    assert refused < 12  # what was refused once is not tried again and again


def test_one_thing_that_is_too_large_costs_itself(
    protocol: Protocol, inbox: Inbox, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(request: Any, size: int) -> Reply:
        return Reply("too large", "over the limit") if size > 50_000 else Reply()

    inbox.answer = answer
    session = configure(inbox, protocol)
    recording.scalar("loss", 1.0, 0)
    recording.event(
        recording.LoggedEvent("image", tag="large", payload=b"x" * 200_000, mime_type="image/png")
    )
    recording.event(recording.LoggedEvent("image", tag="small", payload=b"x", mime_type="image/png"))
    tracelet_otel.shutdown()
    assert [decode_attributes(item.attributes)[semconv.TAG] for item in inbox.events("image")] == ["small"]
    assert counts(session)[:2] == (1, 1)
    line = capfd.readouterr().err.splitlines()[-1]
    assert "delivered 1 point and 1 record, dropped 1 record" in line
    assert "over the limit" in line


def test_what_a_receiver_rejects_is_counted_and_said(
    protocol: Protocol, inbox: Inbox, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: Any, size: int) -> Reply:
        if isinstance(request, ExportMetricsServiceRequest):
            return Reply(message="samples are out of order", rejected=1)
        return Reply(message=warning)

    warning = f"a mere warning over {protocol}"  # it is logged once a minute
    inbox.answer = answer
    session = configure(inbox, protocol)
    for step in range(100):
        recording.scalar("many", 1.0, step)
    recording.scalar("one", 1.0, 0)
    tracelet_otel.log_text("note", "kept", 0)
    tracelet_otel.shutdown()
    (delivery,) = session.pipeline.deliveries
    assert delivery.counts.dropped_points == 100  # at worst: which data point it was is not said
    assert delivery.counts.delivered_records == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert "1 of 2 data points rejected: samples are out of order" in line
    assert caplog.text.count(warning) == 1


def test_retry_after_is_waited_for_whatever_comes_meanwhile(protocol: Protocol, inbox: Inbox) -> None:
    arrivals: list[float] = []

    def answer(request: Any, size: int) -> Reply:
        arrivals.append(time.monotonic())
        return Reply("busy", "later", retry_after=1.5) if len(arrivals) == 1 else Reply()

    inbox.answer = answer
    forward = Forward("otlp", {"endpoint": inbox.endpoint, "protocol": protocol})
    delivery = Delivery("otlp", forward, max_queue_bytes=10**9)
    delivery.put(metrics("first", range(3)))
    inbox.wait_for(lambda: len(arrivals) == 1)
    for number in range(5):
        delivery.put(metrics(f"later {number}", range(3)))
    inbox.wait_for(lambda: len(inbox.requests) == 6)
    assert delivery.close(10)
    assert arrivals[1] - arrivals[0] >= 1.4
    assert [p.step for p in inbox.points()["first"]] == [0, 1, 2]
    assert list(inbox.points()) == ["first", *(f"later {number}" for number in range(5))]


def test_a_failure_in_the_middle_of_a_batch_repeats_nothing(protocol: Protocol, inbox: Inbox) -> None:
    failed: list[int] = []

    def answer(request: Any, size: int) -> Reply:
        if size > 2_000:
            return Reply("too large")
        if len(inbox.requests) == 2 and not failed:
            failed.append(size)
            return Reply("unavailable", retry_after=0.01)
        return Reply()

    inbox.answer = answer
    forward = Forward("otlp", {"endpoint": inbox.endpoint, "protocol": protocol})
    forward.load()
    forward.connect()
    batch = metrics("loss", range(1_000))
    forward._limits = dict.fromkeys(forward._limits, 2_000)
    with pytest.raises(TransientError):
        forward.send(batch)
    assert forward.send(batch).points == 1_000
    forward.close()
    assert failed
    assert [p.step for p in inbox.points()["loss"]] == list(range(1_000))


def replay(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["replay", *arguments])
    return done.exit_code, done.output


def test_an_outage_is_spooled_and_replayed_without_duplicates(
    protocol: Protocol, inbox: Inbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inbox.answer = inbox.answer_to_nothing = lambda *_: Reply("unavailable", "away")
    session = configure(inbox, protocol, shutdown_timeout=0.5)
    for step in range(5_000):
        recording.scalar("loss", step / 7, step, time_unix_nano=10**18 + step)
    recording.scalar("loss", math.nan, 5_000)
    payload = bytes(range(256)) * 8_000  # a file
    recording.event(recording.LoggedEvent("image", tag="picture", payload=payload, mime_type="image/png"))
    tracelet_otel.shutdown()
    assert counts(session) == (5_001, 0, 5_001)
    assert "tracelet-otel replay" in capfd.readouterr().err
    assert not inbox.requests
    inbox.answer = lambda *_: Reply()
    inbox.answer_to_nothing = lambda _: Reply()
    options = ("--option", f"otlp.endpoint={inbox.endpoint}", "--option", f"otlp.protocol={protocol}")
    code, said = replay("--backend", "otlp", *options)
    assert code == 0, said
    assert "otlp: delivered 5,001 points and 1 record" in said
    assert [p[:2] for p in inbox.points()["loss"][:5_000]] == [(step, step / 7) for step in range(5_000)]
    (image,) = inbox.events("image")
    assert image.body.bytes_value == payload
    once = sequences(inbox, "loss")
    assert len(set(once)) == len(once) == 5_000
    code, said = replay("--backend", "otlp", *options)
    assert code == 0, said
    assert set(sequences(inbox, "loss")) == set(once)  # the same numbers: a receiver knows them again


def test_a_receiver_that_denies_us_costs_nothing(protocol: Protocol, inbox: Inbox) -> None:
    inbox.answer_to_nothing = lambda _: Reply("denied", "no token")
    session = configure(inbox, protocol)
    recording.scalar("loss", 1.0, 0)
    tracelet_otel.shutdown()
    assert counts(session) == (1, 0, 1)
    assert "no token" in session.pipeline.deliveries[0].last_error
    # A token that expires in the middle:
    inbox.answer_to_nothing = lambda _: Reply()
    session = configure(inbox, protocol, shutdown_timeout=1)
    recording.scalar("loss", 1.0, 0)
    assert tracelet_otel.flush()
    inbox.answer = lambda *_: Reply("denied", "expired")
    recording.scalar("loss", 2.0, 1)
    tracelet_otel.shutdown()
    assert counts(session) == (2, 1, 1)
    assert "expired" in session.pipeline.deliveries[0].last_error


def test_a_receiver_of_metrics_alone_gets_these(
    protocol: Protocol, inbox: Inbox, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(request: Any, size: int) -> Reply:
        is_logs = isinstance(request, ExportLogsServiceRequest)
        return Reply("missing", "no logs here") if is_logs else Reply()

    inbox.answer = answer
    session = configure(inbox, protocol)
    recording.scalar("loss", 1.0, 0)
    tracelet_otel.log_text("note", "lost", 0)
    tracelet_otel.shutdown()
    assert counts(session) == (1, 1, 0)
    line = capfd.readouterr().err.splitlines()[-1]
    assert "delivered 1 point, dropped 1 record: " in line
    assert "no logs here" in line


def test_another_loggers_bad_record_costs_itself(protocol: Protocol, inbox: Inbox) -> None:
    session = configure(inbox, protocol)
    theirs = session.pipeline.logger_provider.get_logger("theirs")
    bad: Any = object()
    for body in ("good", bad, "also good"):
        theirs.emit(LogRecord(body=body))
    tracelet_otel.log_text("note", "ours", 0)
    tracelet_otel.shutdown()
    bodies = [record.body.string_value for _, record in inbox.records() if not record.event_name]
    assert bodies == ["good", "also good"]
    assert len(inbox.events("text")) == 1


def test_what_sending_logs_is_not_sent(protocol: Protocol, inbox: Inbox) -> None:
    session = configure(inbox, protocol, export_interval=20)
    theirs = session.pipeline.logger_provider.get_logger("theirs")

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            theirs.emit(LogRecord(body=record.getMessage()))

    handler, root = Handler(logging.DEBUG), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        recording.scalar("loss", 1.0, 0)
        assert tracelet_otel.flush()
        logging.getLogger("training").info("an epoch")
        assert tracelet_otel.flush()
        tracelet_otel.shutdown()
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    bodies = [record.body.string_value for _, record in inbox.records() if not record.event_name]
    assert "an epoch" in bodies
    assert not [body for body in bodies if "send_request" in body or "connect_tcp" in body]


class TestMedia:
    """Payloads over 1 MiB, which are files of this machine."""

    def records(self, inbox: Inbox, protocol: Protocol, sizes: list[int], **settings: Any) -> Session:
        session = configure(inbox, protocol, **settings)
        for size in sizes:
            recording.event(
                recording.LoggedEvent("image", tag=f"{size}", payload=b"x" * size, mime_type="image/png")
            )
        tracelet_otel.shutdown()
        return session

    def test_they_go_into_the_body(self, protocol: Protocol, inbox: Inbox) -> None:
        sizes = [2_000_000, 1_500_000, 100, 3_000_000]
        session = self.records(inbox, protocol, sizes)
        found = inbox.events("image")
        assert [len(record.body.bytes_value) for record in found] == sizes
        for size, record in zip(sizes, found, strict=True):
            attributes = decode_attributes(record.attributes)
            assert semconv.PAYLOAD_URI not in attributes
            assert attributes[semconv.PAYLOAD_SIZE] == size
            assert attributes[semconv.PAYLOAD_SHA256] == sha256(b"x" * size).hexdigest()
        assert session.pipeline.deliveries[0].counts.dropped_records == 0
        assert max(inbox.sizes) < (4 * 2**20 if protocol == "grpc" else 20 * 2**20)

    def test_beyond_the_receivers_limit_the_event_comes_without(
        self, protocol: Protocol, inbox: Inbox, capfd: pytest.CaptureFixture[str]
    ) -> None:
        limit = 5_000_000
        inbox.answer = lambda request, size: Reply("too large", "no room") if size > limit else Reply()
        sizes = [6_000_000, 2_000_000]
        session = self.records(inbox, protocol, sizes)
        large, small = sorted(inbox.events("image"), key=lambda record: len(record.body.bytes_value))
        assert len(small.body.bytes_value) == 2_000_000
        assert not large.body.HasField("bytes_value")
        attributes = decode_attributes(large.attributes)
        assert attributes[semconv.PAYLOAD_SHA256] == sha256(b"x" * 6_000_000).hexdigest()
        assert attributes[semconv.PAYLOAD_URI].startswith("/")
        counted = session.pipeline.deliveries[0].counts
        assert (counted.delivered_records, counted.dropped_records) == (1, 1)
        line = capfd.readouterr().err.splitlines()[-1]
        assert "6,000,000 bytes in a file of this machine do not fit" in line

    def test_a_url_that_others_can_read_stays(self, protocol: Protocol, inbox: Inbox) -> None:
        session = self.records(inbox, protocol, [2_000_000], media_dir="memory://shared")
        (record,) = inbox.events("image")
        assert decode_attributes(record.attributes)[semconv.PAYLOAD_URI].startswith("memory://shared/")
        assert not record.body.HasField("bytes_value")
        assert session.pipeline.deliveries[0].counts.dropped_records == 0


def test_several_threads_of_runs_each_keep_their_own(protocol: Protocol, inbox: Inbox) -> None:
    configure(inbox, protocol)

    def trial(number: int) -> None:
        with tracelet_otel.run(f"trial {number}"):
            for step in range(200):
                recording.scalar("loss", number * 1000.0 + step, step)

    threads = [threading.Thread(target=trial, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracelet_otel.shutdown()
    by_name: dict[str, list[float]] = {}
    for request in inbox.metrics:
        for resource in request.resource_metrics:
            name = decode_attributes(resource.resource.attributes).get(semconv.RUN_NAME, "")
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.gauge.data_points:
                        by_name.setdefault(name, []).extend(item.as_double for item in point.exemplars)
    for number in range(5):
        assert by_name[f"trial {number}"] == [number * 1000.0 + step for step in range(200)]


@pytest.mark.parametrize(
    ("metrics_of", "logs_of", "arrives"),
    [
        ("otlp", None, {"metrics", "logs"}),
        ("otlp", "none", {"metrics"}),
        ("otlp", "console", {"metrics"}),
        ("otlp", "otlp", {"metrics", "logs"}),
        ("console", "otlp", {"logs"}),
    ],
)
def test_the_two_variables_say_which_signals_it_gets(
    monkeypatch: pytest.MonkeyPatch, metrics_of: str, logs_of: str | None, arrives: set[str]
) -> None:
    with receiver("http/protobuf") as inbox:
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", metrics_of)
        if logs_of is not None:
            monkeypatch.setenv("OTEL_LOGS_EXPORTER", logs_of)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", inbox.endpoint)
        distro.start_from_environment(offer_providers=False)
        tracelet_otel.log_scalar("loss", 1.0, 0)
        tracelet_otel.log_text("note", "text", 0)
        tracelet_otel.shutdown()
    assert {"metrics"} & arrives == ({"metrics"} if inbox.metrics else set())
    assert {"logs"} & arrives == ({"logs"} if inbox.logs else set())


def test_without_grpc_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigurationError, match=r"pip install 'tracelet-otel\[otlp\]', or set OTEL_EXPORTER"
    ):
        Forward("otlp", {})
    assert Forward("otlp", {"protocol": "http/protobuf"}).takes_otlp


def test_batches_without_a_signal_are_nothing(protocol: Protocol, inbox: Inbox) -> None:
    forward = Forward("otlp", {"endpoint": inbox.endpoint, "protocol": protocol})
    forward.load()
    forward.connect()
    assert forward.send(Batch()).points == 0
    forward.close()
    assert not inbox.requests
