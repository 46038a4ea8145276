"""Runs are opened, closed, taken as killed and resumed, in whatever order their data comes."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tests.gateway.support import Job, Station
from tests.support.contract_data import NOW, SECOND, Request
from tracelet_otel import semconv
from tracelet_otel.gateway import runs as runs_module
from tracelet_otel.gateway.runs import Runs


class Clock:
    """Seconds that pass as they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def status_of(station: Station, run_id: str = "run-a") -> str:
    station.flush()
    return station.subject().status(run_id)


def test_a_run_that_falls_silent_is_killed_and_goes_on_when_it_is_heard_again(tmp_path: Path) -> None:
    clock = Clock()
    station = Station(tmp_path, clock=clock, silence=900)
    job = Job("run-a")
    station.accept(job.begin(), job.steps("x", range(3)))
    for _ in range(5):
        clock.now += 890
        station.accept([machine("run-a", clock.now)])  # its machine is heard of
        station.intake.tick()
        assert status_of(station) == "running"
    clock.now += 901
    station.intake.tick()
    station.intake.tick()
    assert status_of(station) == "killed"
    assert station.runs.counts() == {"open": 0, "ended": 0, "silent": 1}
    station.accept([machine("run-a", clock.now)])  # is no sign of training
    assert status_of(station) == "killed"
    station.accept(job.steps("x", range(3, 6)))
    assert status_of(station) == "running"
    clock.now += 890
    station.intake.tick()
    assert status_of(station) == "running"
    clock.now += 11
    station.intake.tick()
    assert status_of(station) == "killed"
    station.accept(job.steps("x", range(6, 9)), job.end("finished"))
    assert status_of(station) == "finished"
    clock.now += 10_000
    station.intake.tick()
    assert status_of(station) == "finished"
    assert station.points("run-a") == job.keys
    station.close()


def machine(run_id: str, value: float) -> Request:
    message = ExportMetricsServiceRequest()
    resource = message.resource_metrics.add()
    resource.resource.attributes.append(KeyValue(key=semconv.RUN_ID, value=AnyValue(string_value=run_id)))
    metric = resource.scope_metrics.add().metrics.add(name="system.memory.usage")
    metric.gauge.data_points.add(as_double=value, time_unix_nano=NOW)
    return Request("metrics", message.SerializeToString())


def test_silence_goes_on_over_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    station = Station(tmp_path, clock=clock, silence=900)
    job = Job("run-a", name="n", project="p", experiment="e")
    station.accept(job.begin(), job.steps("x", range(3)))
    station.flush()
    station.close()
    clock.now += 10_000  # nothing could be heard meanwhile
    station = Station(tmp_path, clock=clock, silence=900)
    station.intake.tick()
    assert status_of(station) == "running"
    clock.now += 901
    station.intake.tick()
    assert status_of(station) == "killed"
    assert station.subject().description("run-a") == {"name": "n", "project": "p", "experiment": "e"}
    station.close()


def test_a_late_value_does_not_leave_an_ended_run_open_nor_after_a_restart(tmp_path: Path) -> None:
    station = Station(tmp_path)
    job = Job("run-a")
    late = job.begin()
    first, second = job.steps("x", range(3)), job.steps("x", range(3, 6))
    last = job.steps("x", range(6, 9))
    station.accept(late, job.end("failed"), first)
    assert status_of(station) == "failed"
    station.accept(second)
    assert status_of(station) == "failed"
    station.close()
    station = Station(tmp_path)
    station.accept(last)
    assert status_of(station) == "failed"
    assert station.runs.counts() == {"open": 0, "ended": 1, "silent": 0}
    assert station.points("run-a") == job.keys
    station.close()


def stamped(requests: list[Request], time_unix_nano: int) -> list[Request]:
    """Records of another time."""
    [request] = requests
    message = ExportLogsServiceRequest.FromString(request.data)
    for record in message.resource_logs[0].scope_logs[0].log_records:
        record.time_unix_nano = time_unix_nano
    return [Request("logs", message.SerializeToString())]


def test_a_run_that_is_started_again_is_open_until_it_ends_again(tmp_path: Path) -> None:
    station = Station(tmp_path)
    job = Job("run-a")
    first_end = stamped(job.end("failed"), NOW + 10 * SECOND)
    station.accept(stamped(job.begin(), NOW), job.steps("x", range(3)), first_end)
    assert status_of(station) == "failed"
    again = Job("run-a")
    station.accept(again.steps("x", range(3, 6)))  # overtook the run's description
    station.accept(stamped(again.begin(), NOW + 20 * SECOND), again.steps("x", range(6, 9)))
    assert status_of(station) == "running"
    station.accept(first_end)  # once more, as its sender did not hear the answer
    assert status_of(station) == "running"
    station.close()
    station = Station(tmp_path)
    station.accept(first_end)
    assert status_of(station) == "running"
    station.accept(stamped(again.end("finished"), NOW + 30 * SECOND))
    assert status_of(station) == "finished"
    assert station.points("run-a") == job.keys + again.keys
    station.close()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_any_order_ends_the_same(tmp_path: Path, order: tuple[int, ...]) -> None:
    station = Station(tmp_path)
    job = Job("run-a", name="n", project="p", experiment="e")
    parts = [
        stamped(job.begin(), NOW),
        job.steps("x", range(3)),
        job.record("text", "note", 1, b"hello", "text/plain"),
        stamped(job.end("finished"), NOW + SECOND),
    ]
    for number in order:
        station.accept(parts[number])
    assert status_of(station) == "finished"
    assert station.subject().description("run-a") == {"name": "n", "project": "p", "experiment": "e"}
    assert station.points("run-a") == job.keys
    assert [media.content for media in station.subject().media("run-a")] == [b"hello"]
    assert station.runs.counts() == {"open": 0, "ended": 1, "silent": 0}
    station.close()


def test_points_before_the_description_are_filed_where_their_resource_says(tmp_path: Path) -> None:
    station = Station(tmp_path)
    job = Job("run-a", name="n", project="p", experiment="e")
    station.accept(job.steps("x", range(3)))
    station.flush()
    assert station.subject().description("run-a") == {"name": "n", "project": "p", "experiment": "e"}
    station.close()


def test_another_run_of_the_same_process_is_filed_beside_it_and_found_after_a_restart(tmp_path: Path) -> None:
    """A sweep: the resource names the process's first run."""
    station = Station(tmp_path)
    job = Job("run-a", name="n", project="p", experiment="e")
    own = Job("run-b", name="trial", project="other", experiment="e")
    own.pipeline = job.pipeline
    [request] = job.steps("x", range(3))
    message = ExportMetricsServiceRequest.FromString(request.data)
    for point in message.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points:
        for item in point.attributes:
            if item.key == semconv.RUN_ID:
                item.value.string_value = "run-b"
    station.accept([Request("metrics", message.SerializeToString())])
    station.flush()
    assert station.subject().description("run-b") == {"name": "", "project": "p", "experiment": "e"}
    station.accept(Job("run-b", name="trial", project="other", experiment="e").begin())
    station.flush()
    assert station.subject().description("run-b")["project"] == "other"
    station.close()
    station = Station(tmp_path)
    assert station.runs.describe("run-b") is not None
    assert station.runs.describe("run-b").project == "other"  # type: ignore[union-attr]
    station.close()


def test_lines_of_the_book_that_cannot_be_read_cost_themselves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    station = Station(tmp_path)
    for run_id in ("run-a", "run-b"):
        station.accept(Job(run_id, name="n").begin())
    station.flush()
    station.close()
    book = tmp_path / "runs.log"
    first, second = book.read_bytes().splitlines(keepends=True)
    for spoiled in (b"[]\n", b"{}\n", b"\0\0\n", b'{"info": {"id": 1}}\n', second[:-20]):
        book.write_bytes(first + spoiled)
        runs = Runs(book, silence=900)
        assert runs.counts()["open"] == 1
        runs.value("run-c", None)
        runs.save()
        runs = Runs(book, silence=900)
        assert [runs.is_open(run_id) for run_id in ("run-a", "run-b", "run-c")] == [True, False, True]
    assert "a line is left out" in caplog.text


def test_the_book_does_not_grow_with_what_has_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "MOST_ENDED", 20)
    runs = Runs(tmp_path / "runs.log", silence=900)
    for number in range(3000):
        runs.value(f"run-{number}", None)
        runs.status(f"run-{number}", "finished", number, inferred=False)
        runs.forget()
        runs.save()
    assert (tmp_path / "runs.log").stat().st_size < 500_000
    again = Runs(tmp_path / "runs.log", silence=900)
    assert again.counts() == runs.counts() == {"open": 0, "ended": 20, "silent": 0}


def test_hundreds_of_runs_at_once(tmp_path: Path) -> None:
    station = Station(tmp_path)
    chance = random.Random(1)
    jobs = [Job(f"run-{number}") for number in range(200)]
    for job in jobs:
        station.accept(job.begin())
    for part in range(3):
        chance.shuffle(jobs)
        for job in jobs:
            station.accept(job.steps("x", range(part * 5, part * 5 + 5)))
    for job in jobs:
        station.accept(job.end("finished"))
    station.flush()
    for job in jobs:
        assert station.points(job.run.id) == job.keys
    assert station.runs.counts() == {"open": 0, "ended": 200, "silent": 0}
    station.close()
