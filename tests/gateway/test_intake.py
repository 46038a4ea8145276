"""What the intake keeps, drops and refuses, from requests of real pipelines to what a tracker has."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tests.gateway.support import MB, Away, Job, Station, rebatched
from tests.support.contract_data import NOW, Request
from tracelet_otel import semconv
from tracelet_otel.delivery.spool.spool import Durability
from tracelet_otel.gateway import deduplication
from tracelet_otel.gateway import runs as runs_module
from tracelet_otel.gateway.intake import Signal


def logged(run_id: str = "run-a", points: int = 5000) -> tuple[Job, list[Request], list[Request]]:
    """A job, what it sends, and its end."""
    job = Job(run_id, name="a name", project="a project", experiment="an experiment")
    requests = job.begin()
    job.log("loss", -1, math.nan)
    job.log("loss", -1, math.inf)
    job.log("", 0, 0.5)
    requests += job.steps("loss", range(points), lambda step: 1 / (step + 3))
    requests += job.record("params", payload=b'{"lr": 0.1}', mime_type="application/json")
    requests += job.record("text", "note", 3, b"hello", "text/plain")
    return job, requests, job.end("finished")


def test_everything_arrives_once_though_every_request_is_sent_twice(tmp_path: Path) -> None:
    station = Station(tmp_path)
    job, requests, end = logged()
    for request in [*requests, *end]:
        station.accept([request], [request])
    station.accept(requests)
    station.flush()
    subject = station.subject()
    assert station.points("run-a") == job.keys
    assert subject.status("run-a") == "finished"
    assert subject.description("run-a") == {
        "name": "a name",
        "project": "a project",
        "experiment": "an experiment",
    }
    assert subject.params("run-a") == {"lr": "0.1"}
    assert [media.content for media in subject.media("run-a")] == [b"hello"]
    assert station.backends[0].delivery.counts.captured_points == 5003
    station.close()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_batched_anew_arrives_once(tmp_path: Path, seed: int) -> None:
    """Runs and ranks in one request, in any order, some data points twice, cut differently each time."""
    chance = random.Random(seed)
    station = Station(tmp_path, {"json": {}, "losses": {"include": ["loss*"], "kinds": ["scalar"]}})
    jobs = [Job("run-a", rank=0), Job("run-a", rank=1), Job("run-b"), Job("run-c")]
    sent: list[Request] = []
    for job in jobs:
        if job.run.rank != 1:
            sent += job.begin()
        for part in range(6):
            sent += job.steps(f"loss {part % 2}", range(part * 50, part * 50 + 50))
            sent += job.steps("other", range(part * 3, part * 3 + 3))
            sent += job.record("text", f"note {part}", part, b"%d" % part, "text/plain")
    for _ in range(3):
        station.accept(rebatched(sent, chance))
    station.flush()
    logged = {"run-a": jobs[0].keys + jobs[1].keys, "run-b": jobs[2].keys, "run-c": jobs[3].keys}
    for run_id, points in logged.items():
        assert station.points(run_id) == points
        assert station.points(run_id, "losses") == Counter(
            {key: count for key, count in points.items() if key[0].startswith("loss")}
        )
        texts = [media.content for media in station.subject().media(run_id)]
        assert sorted(texts) == sorted([b"0", b"1", b"2", b"3", b"4", b"5"] * (1 + (run_id == "run-a")))
        assert station.subject("losses").media(run_id) == []
    station.close()


def test_a_data_point_that_is_known_in_part_is_cut_to_what_is_new(tmp_path: Path) -> None:
    station = Station(tmp_path)
    job = Job("run-a")
    job.log("x", 0, 0.0, NOW)
    first = job.steps("x", range(1, 5))
    second = job.steps("x", range(5, 10))
    [a], [b] = first, second
    merged = ExportMetricsServiceRequest.FromString(a.data)
    more = ExportMetricsServiceRequest.FromString(b.data)
    point = merged.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0]
    point.exemplars.extend(
        more.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0].exemplars
    )
    station.accept(second)
    station.accept([Request("metrics", merged.SerializeToString())])
    station.accept(first)
    station.flush()
    assert station.points("run-a") == job.keys
    assert station.backends[0].delivery.counts.captured_points == 10
    station.close()


def test_a_restart_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """With a tracker that is away at first, so that all of it is in the spool when the process ends."""
    job, requests, end = logged()
    station = Station(tmp_path, tracker=Away(tmp_path / "away" / "runs"))
    station.accept(requests)
    for backend in station.backends:
        backend.delivery.close(0.1)
    station = Station(tmp_path)
    assert station.backends[0].delivery.counts.captured_points == 5003
    station.accept(requests, end)  # the sender did not hear the answer
    station.flush()
    assert station.points("run-a") == job.keys
    assert station.backends[0].delivery.counts.captured_points == 5003
    assert station.subject().status("run-a") == "finished"
    station.close()
    station = Station(tmp_path)  # nothing is left, and the book of runs is
    assert station.runs.counts() == {"open": 0, "ended": 1, "silent": 0}
    station.close()


def test_a_full_spool_is_unavailable_and_what_was_kept_is_not_kept_twice(tmp_path: Path) -> None:
    away = Away(tmp_path / "away" / "runs")
    station = Station(tmp_path, {"small": {}, "json": {}}, tracker=away, max_spool_bytes=200_000)
    job = Job("run-a")
    requests = job.begin() + [
        request for part in range(40) for request in job.steps("x", range(part * 200, part * 200 + 200))
    ]
    answers = station.send(requests)
    refused = [
        request for request, answer in zip(requests, answers, strict=True) if answer.kind != "accepted"
    ]
    assert 10 < len(refused) < 35
    assert {answer.kind for answer in answers} == {"accepted", "unavailable"}
    assert all(answer.retry_after > 0 for answer in answers if answer.kind == "unavailable")
    assert "has reached its limit" in answers[-1].message
    away.gone = False
    while refused:
        station.flush()
        answers = station.send(refused)
        refused = [
            request for request, answer in zip(refused, answers, strict=True) if answer.kind != "accepted"
        ]
    station.flush()
    assert station.points("run-a") == job.keys
    assert Counter(away.points("run-a")) == Counter(job.keys)
    for backend in station.backends:
        assert backend.delivery.counts.captured_points == 8000
        assert backend.delivery.counts.dropped_points == 0
    station.close()


def test_what_names_no_run_or_tag_is_refused_alone(tmp_path: Path) -> None:
    station = Station(tmp_path)
    job = Job("run-a")
    [request] = job.steps("x", range(3))
    message = ExportMetricsServiceRequest.FromString(request.data)
    metric = message.resource_metrics[0].scope_metrics[0].metrics[0]
    for missing in (semconv.TAG, semconv.RUN_ID):
        point = metric.gauge.data_points.add()
        point.CopyFrom(metric.gauge.data_points[0])
        kept = [item for item in point.attributes if item.key != missing]
        del point.attributes[:]
        point.attributes.extend(kept)
    point = metric.gauge.data_points.add()
    point.CopyFrom(metric.gauge.data_points[0])
    point.attributes.add(key=semconv.RANK, value=AnyValue(string_value="first"))
    other = message.resource_metrics.add().scope_metrics.add().metrics.add(name="somebody's")
    other.gauge.data_points.add(as_double=1.0)
    [answer] = station.send([Request("metrics", message.SerializeToString())])
    assert (answer.kind, answer.rejected) == ("partial", 4)
    for word in ("tracelet.tag", "tracelet.run.id", "tracelet.rank", "another instrument"):
        assert word in answer.message
    station.flush()
    assert station.points("run-a") == job.keys
    assert len(list((tmp_path / "json" / "runs").iterdir())) == 1
    station.close()


def test_records_that_cannot_be_written_are_refused_alone(tmp_path: Path) -> None:
    station = Station(tmp_path)
    job = Job("run-a")
    [request] = job.record("text", "note", 1, b"kept", "text/plain")
    message = ExportLogsServiceRequest.FromString(request.data)
    records = message.resource_logs[0].scope_logs[0].log_records
    good = records[0]

    def spoiled(name: str, payload: bytes | None = None, **attributes: str) -> None:
        record = records.add()
        record.CopyFrom(good)
        record.event_name = name
        if payload is not None:
            record.body.bytes_value = payload
        for key, value in attributes.items():
            record.attributes.add(key=key.replace("__", "."), value=AnyValue(string_value=value))

    spoiled("somebody.else")
    spoiled("tracelet.unheard_of")
    spoiled("tracelet.run", b"no json")
    spoiled("tracelet.run", b'{"tags": [1]}')
    spoiled("tracelet.status", tracelet__run__status="vanished")
    spoiled("tracelet.image", tracelet__payload__uri="/etc/passwd")
    spoiled("tracelet.image", tracelet__payload__uri="http://169.254.169.254/latest")
    [answer] = station.send([Request("logs", message.SerializeToString())])
    assert (answer.kind, answer.rejected) == ("partial", 7)
    station.flush()
    assert [media.content for media in station.subject().media("run-a")] == [b"kept"]
    assert station.subject().status("run-a") == "running"
    station.close()


def test_payloads_are_read_below_the_named_places_only(tmp_path: Path) -> None:
    inside, outside = tmp_path / "media" / "in", tmp_path / "media-2"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "payload").write_bytes(b"content")
    (inside / "link").symlink_to(outside / "payload")
    station = Station(tmp_path / "s", media=(str(tmp_path / "media"), "s3://bucket/media"))
    job = Job("run-a")

    def answer(uri: str) -> str:
        [request] = job.record("image", "x", 1, None, "image/png", {semconv.PAYLOAD_URI: uri})
        [found] = station.send([request])
        return found.kind

    assert answer(str(inside / "payload")) == "accepted"
    assert answer((inside / "payload").as_uri()) == "accepted"
    assert answer("s3://bucket/media/x") == "accepted"
    for uri in (
        str(outside / "payload"),
        str(inside / ".." / ".." / "media-2" / "payload"),
        str(inside / "link"),
        "media/in/payload",
        "s3://bucket/media/../secret",
        "s3://bucket/media/%2e%2e/secret",
        "s3://bucket/media-2/x",
        "s3://other/media/x",
        "file://elsewhere/../../etc/passwd",
    ):
        assert answer(uri) == "partial", uri
    station.close()


def test_no_protobuf_is_invalid_and_an_empty_request_is_nothing(tmp_path: Path) -> None:
    station = Station(tmp_path)
    for signal in get_args(Signal):
        assert station.intake.take(signal, b"\xff\xff\xff").kind == "invalid"
        assert station.intake.take(signal, b"").kind == "accepted"
    station.close()


def test_a_failure_inside_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    station = Station(tmp_path)
    job, requests, _ = logged(points=3)
    monkeypatch.setattr(station.runs, "run", lambda *_: 1 / 0)
    assert station.send(requests[:1])[0].kind == "unavailable"
    monkeypatch.undo()
    station.accept(requests)
    station.flush()
    assert station.points("run-a") == job.keys
    station.close()


def test_the_memory_of_what_was_seen_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deduplication, "GENERATION", 50)
    monkeypatch.setattr(runs_module, "MOST_ENDED", 10)
    station = Station(tmp_path)
    for number in range(60):
        job = Job(f"run-{number}")
        station.accept(job.begin(), job.steps("x", range(3)), job.end("finished"))
        station.intake.tick()
    deduplicator = station.backends[0].deduplicator
    assert len(deduplicator._series) == 10
    assert len(deduplicator._digests) + len(deduplicator._earlier) <= 100
    assert station.runs.counts() == {"open": 0, "ended": 10, "silent": 0}
    station.close()


def test_metrics_of_other_instruments_and_the_machine_go_to_their_resources_run(tmp_path: Path) -> None:
    station = Station(tmp_path)
    for run_id in ("run-a", "run-b"):
        job = Job(run_id)
        station.accept(job.begin(), job.steps("x", range(2)))
    message = ExportMetricsServiceRequest()
    for run_id in ("run-a", "run-b", "run-never-opened"):
        resource = message.resource_metrics.add()
        resource.resource.attributes.append(KeyValue(key=semconv.RUN_ID, value=AnyValue(string_value=run_id)))
        metrics = resource.scope_metrics.add().metrics
        metrics.add(name="mine").gauge.data_points.add(as_double=len(run_id), time_unix_nano=NOW)
        metrics.add(name="system.memory.usage").gauge.data_points.add(as_int=7, time_unix_nano=NOW)
        histogram = metrics.add(name="h").histogram
        histogram.data_points.add(count=2, sum=3.0, time_unix_nano=NOW)
    request = Request("metrics", message.SerializeToString())
    station.accept([request], [request])
    station.flush()
    for run_id in ("run-a", "run-b"):
        points = station.points(run_id)
        assert [(key[1], key[2]) for key in points if key[0] == "mine"] == [(0, float(len(run_id)))]
        assert [key[2] for key in points if key[0] == "h.count"] == [2.0]
        assert list(station.subject().system(run_id).values()) == [[7.0]]
    assert len(list((tmp_path / "json" / "runs").iterdir())) == 2
    station.close()


def test_a_source_finds_what_became_of_its_own(tmp_path: Path) -> None:
    station = Station(tmp_path, durability=Durability.PROCESS)
    job, other = Job("run-a", rank=0), Job("run-a", rank=1)
    for request in job.begin() + job.steps("x", range(7)):
        station.intake.take(request.signal, request.data, "rank 0")
    for request in other.steps("x", range(5)):
        station.intake.take("metrics", request.data, "rank 1")
    station.flush()
    delivery = station.backends[0].delivery
    assert [delivery.counts_of(source).delivered_points for source in ("rank 0", "rank 1")] == [7, 5]
    station.close()


def test_a_payload_in_a_file_is_kept_though_the_file_goes(tmp_path: Path) -> None:
    station = Station(tmp_path / "s", media=None, tracker=Away(tmp_path / "s" / "json" / "runs"))
    job = Job("run-a")
    [request] = job.record("text", "note", 1, b"x" * (5 * MB), "text/plain")
    station.accept([request])
    [record] = [
        record
        for resource in ExportLogsServiceRequest.FromString(request.data).resource_logs
        for record in resource.scope_logs[0].log_records
    ]
    [uri] = [item.value.string_value for item in record.attributes if item.key == semconv.PAYLOAD_URI]
    Path(uri.removeprefix("file://")).unlink()
    for backend in station.backends:
        backend.delivery.close(0.1)
    station = Station(tmp_path / "s", media=None)
    station.flush()
    assert [len(media.content) for media in station.subject().media("run-a")] == [5 * MB]
    station.close()
    assert not list((tmp_path / "s" / "spool" / "json" / "media").iterdir())
