"""ClearML: against a server that speaks its protocol, over real HTTP."""

from __future__ import annotations

import io
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from tests.support.clearml_subject import ClearMLSubject, make_subject
from tests.support.subject import StoredPoint
from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series, SystemPoint
from tracelet_otel.semconv import Kind, Status
from tracelet_otel.tracker.interface import PointAside, RecordAside
from tracelet_otel_exporters.clearml import library as clearml_library
from tracelet_otel_exporters.clearml import names as clearml_names
from tracelet_otel_exporters.clearml import runs as clearml_runs
from tracelet_otel_exporters.clearml.otel import ClearMLMetricExporter
from tracelet_otel_exporters.clearml.tracker import ClearMLTracker

# The parser of clearml.conf uses names of pyparsing that pyparsing warns of.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated.* use :DeprecationWarning")

NOW = 1_700_000_000_000_000_000
RUN = RunInfo("run-1", "first", "project", "experiment", {"model": "resnet"})
INFINITY = math.inf


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clearml_runs, "SETTLE_SECONDS", 0.0)


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[ClearMLSubject]:
    made = make_subject(tmp_path)
    yield made
    made.close()


@pytest.fixture
def make(subject: ClearMLSubject) -> Iterator[Callable[[], ClearMLTracker]]:
    made: list[ClearMLTracker] = []

    def connected() -> ClearMLTracker:
        made.append(subject.make())
        made[-1].load()
        made[-1].connect()
        return made[-1]

    yield connected
    for tracker in made:
        tracker.close()


@pytest.fixture
def tracker(make: Callable[[], ClearMLTracker]) -> ClearMLTracker:
    tracker = make()
    tracker.open_run(RUN)
    return tracker


def series(tag: str, *points: tuple[int, float], rank: int | None = None, start: int = NOW) -> Series:
    stamped = [Point(step, value, start + place * 1_000_000) for place, (step, value) in enumerate(points)]
    return Series("run-1", tag, stamped, rank)


def record(
    kind: Kind, payload: bytes, mime_type: str = "", *, tag: str = "a/b", step: int = 3, **more: Any
) -> Record:
    attributes = {"tracelet." + name.replace("__", "."): value for name, value in more.items()}
    return Record("run-1", kind, tag, step, NOW, attributes, mime_type, payload)


def params(values: dict[str, Any]) -> Record:
    return record("params", json.dumps(values).encode(), "application/json")


def content(subject: ClearMLSubject, run_id: str = "run-1") -> Any:
    """Everything that must not change when the same is written again."""
    logs = subject._events(run_id, "log")
    return (
        *(subject.points(run_id), subject.params(run_id), subject.tags(run_id), subject.files(run_id)),
        *(sorted(subject.media(run_id)), sorted(log["msg"] for log in logs), subject.system(run_id)),
    )


# -- points ----------------------------------------------------------------------------------------


def test_every_point_is_exact(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    values = [(-(2**63), 1 / 3), (-1, -0.0), (0, 5e-324), (7, 3.4e38), (2**63 - 1, 0.1)]
    outcome = tracker.write_points(
        "run-1", [series("loss/train", *values), series("loss/train", (7, 2.0), rank=1)]
    )
    assert (outcome.accepted, outcome.rejected, outcome.aside) == (6, [], [])
    stored = subject.points("run-1")
    assert stored["loss/train"] == [
        StoredPoint(step, value, NOW + place * 1_000_000) for place, (step, value) in enumerate(values)
    ]
    assert math.copysign(1, stored["loss/train"][1].value) == -1
    assert stored["loss/train/rank_1"] == [StoredPoint(7, 2.0, NOW)]


def test_what_clearml_cannot_keep_goes_aside(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    points = [(1, math.nan), (2, INFINITY), (3, -INFINITY), (4, 1e300), (2**63, 1.0), (5, 1.0), (5, 2.0)]
    outcome = tracker.write_points("run-1", [series("x", *points)])
    assert outcome.accepted == 7
    assert outcome.rejected == []
    kept = [point for point in outcome.aside if isinstance(point, PointAside)]
    assert [aside.point.step for aside in kept] == [1, 2, 3, 4, 2**63, 5]
    assert kept[-1].point.value == 2.0
    assert all(aside.reason for aside in kept)
    assert subject.points("run-1") == {"x": [StoredPoint(5, 1.0, NOW + 5_000_000)]}


def test_a_time_before_1970_goes_aside(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    outcome = tracker.write_points("run-1", [series("x", (1, 1.0), (2, 2.0), start=-1_000_000)])
    assert [aside.point.step for aside in outcome.aside if isinstance(aside, PointAside)] == [1]
    assert [point.step for point in subject.points("run-1")["x"]] == [2]


def test_tags_that_look_alike_are_kept_apart(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    tags = [
        "a-b/c",
        "a/b-c",
        "x",
        "x/x",
        "/",
        "",
        "x/",
        "/x",
        "a/b/c",
        ":monitor:machine/cpu_usage",
    ]
    tags += ["x" * 3000, "x" * 3000 + "/y", "t_sha256_" + "0" * 32, "rank_1/rank_1", "y/rank_1", "é\n$.\0"]
    outcome = tracker.write_points("run-1", [series(tag, (0, float(n))) for n, tag in enumerate(tags)])
    assert (outcome.accepted, outcome.rejected, outcome.aside) == (len(tags), [], [])
    assert {tag: points[0].value for tag, points in subject.points("run-1").items()} == {
        tag: float(n) for n, tag in enumerate(tags)
    }


def test_many_points_are_several_requests(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    before = subject.server.requests.count("events.add_batch")
    points = [(step, step / 7) for step in range(25_000)]
    assert tracker.write_points("run-1", [series("x", *points)]).accepted == 25_000
    assert [point[:2] for point in subject.points("run-1")["x"]] == points
    assert subject.server.requests.count("events.add_batch") - before == 3


def test_one_bad_event_costs_itself(
    subject: ClearMLSubject, tracker: ClearMLTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clearml_names, "MAX_BYTES", 100_000)  # a title longer than the server takes
    good = [series(f"good/{n}", (1, 1.0), (2, 2.0)) for n in range(5)]
    outcome = tracker.write_points("run-1", [*good[:3], series("x" * 40_000, (1, 1.0)), *good[3:]])
    assert outcome.accepted == 10
    assert [problem.name for problem in outcome.rejected] == ["x" * 40_000]
    assert sorted(subject.points("run-1")) == [f"good/{n}" for n in range(5)]


def test_a_deleted_task_is_said_at_once(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    subject.server.store.tasks.clear()
    before = len(subject.server.requests)
    with pytest.raises(PermanentError, match="Invalid task id"):
        tracker.write_points("run-1", [series("x", *((step, 1.0) for step in range(100)))])
    assert len(subject.server.requests) - before == 1


def test_the_same_again_changes_nothing(
    subject: ClearMLSubject, tracker: ClearMLTracker, make: Callable[[], ClearMLTracker], tmp_path: Path
) -> None:
    def write(client: ClearMLTracker) -> list[Any]:
        client.open_run(RUN)
        outcome = client.write_points("run-1", [series("x", (1, 1.0), (2, 2.0), (2, 3.0), (3, math.nan))])
        outcome.add(client.write_record(params({"lr": 0.1})))
        outcome.add(client.write_record(record("text", b"hello", "text/plain")))
        outcome.add(client.write_record(record("image", b"\x89PNG", "image/png")))
        outcome.add(client.write_record(record("histogram", HISTOGRAM)))
        outcome.add(client.write_record(record("artifact", b"a", file__name="a.bin", checkpoint__score=1.0)))
        outcome.add(client.write_system("run-1", [SystemPoint("process.cpu.utilization", {}, 0.5, NOW)]))
        return [outcome.accepted, outcome.aside]

    first = write(tracker)
    stored = content(subject)
    accepted, aside = first
    assert write(tracker) == [accepted, []]  # sent again
    lines = "".join(  # as the exporter has them
        json.dumps({"kind": "scalar", "tag": a.tag, "rank": a.rank, **a.point._asdict()}) + "\n"
        for a in aside
    )
    companion = tmp_path / "companion"
    companion.write_text(lines)
    tracker.write_file("run-1", "tracelet/companion-1.jsonl", companion)
    stored = content(subject)
    tracker.close_run("run-1", "finished")
    assert write(make()) == [accepted, []]  # another process, from a spool
    assert content(subject) == stored
    assert len(subject.server.store.models) == 1


def test_a_resumed_run_knows_its_steps(
    subject: ClearMLSubject, tracker: ClearMLTracker, make: Callable[[], ClearMLTracker]
) -> None:
    tracker.write_points("run-1", [series("x", *((step, 1.0) for step in range(10_005)))])
    tracker.close_run("run-1", "failed")
    again = make()
    again.open_run(RunInfo("run-1"))
    assert subject.status("run-1") == "running"
    outcome = again.write_points("run-1", [series("x", (10_003, 9.0), (10_005, 2.0))])
    assert [aside.point.value for aside in outcome.aside if isinstance(aside, PointAside)] == [9.0]
    assert [point.value for point in subject.points("run-1")["x"][-3:]] == [1.0, 1.0, 2.0]


# -- failures --------------------------------------------------------------------------------------


def test_what_was_written_without_an_answer_is_written_once(
    subject: ClearMLSubject, tracker: ClearMLTracker
) -> None:
    points = [series("x", (1, 1.0), (2, 2.0), (2, 3.0))]
    with subject.server.fault(drop=True, matches="events"), pytest.raises(TransientError):
        tracker.write_points("run-1", points)
    assert len(tracker.write_points("run-1", points).aside) == 1
    assert [point.value for point in subject.points("run-1")["x"]] == [1.0, 2.0]


def test_what_did_not_arrive_arrives_with_the_retry(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    points = [series("x", (1, 1.0), (2, 2.0))]
    with subject.server.fault(status=503, matches="events"), pytest.raises(TransientError):
        tracker.write_points("run-1", points)
    assert subject.points("run-1") == {}
    assert tracker.write_points("run-1", points).accepted == 2
    assert len(subject.points("run-1")["x"]) == 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_transient(
    subject: ClearMLSubject, tracker: ClearMLTracker, status: int
) -> None:
    with subject.server.fault(status=status, headers={"Retry-After": "7"}):
        for call in (
            lambda: tracker.write_points("run-1", [series("x", (1, 1.0))]),
            lambda: tracker.write_record(record("image", b"png", "image/png")),
            lambda: tracker.close_run("run-1", "finished"),
            lambda: subject.make().connect(),
        ):
            with pytest.raises(TransientError) as caught:
                call()
            assert caught.value.retry_after == 7


def test_a_server_that_is_away_is_transient_and_may_return(
    subject: ClearMLSubject, tracker: ClearMLTracker
) -> None:
    subject.server.stop()
    began = time.monotonic()
    with pytest.raises(TransientError):
        tracker.write_points("run-1", [series("x", (1, 1.0))])
    with pytest.raises(TransientError):
        subject.make().connect()
    assert time.monotonic() - began < 5
    subject.server.start()
    assert tracker.write_points("run-1", [series("x", (1, 1.0))]).accepted == 1


def test_a_server_that_hangs_is_left(
    subject: ClearMLSubject, tracker: ClearMLTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = clearml_library.load_library().session
    assert session._write_session_timeout == session._session_timeout == clearml_library.TIMEOUT
    for name in ("_session_timeout", "_write_session_timeout"):
        monkeypatch.setattr(session, name, (0.2, 0.2))
    began = time.monotonic()
    with subject.server.fault(hang=threading.Event()), pytest.raises(TransientError):
        tracker.write_points("run-1", [series("x", (1, 1.0))])
    assert time.monotonic() - began < 3


def test_large_requests_hang_no_longer(
    subject: ClearMLSubject, tracker: ClearMLTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library waits 300 s for requests over 15 kB."""
    monkeypatch.setattr(clearml_library.load_library().session, "_write_session_timeout", (0.2, 0.2))
    with subject.server.fault(hang=threading.Event()), pytest.raises(TransientError):
        tracker.write_points("run-1", [series("x", *((step, 1.0) for step in range(1000)))])


def test_without_credentials_nobody_is_asked(subject: ClearMLSubject, tmp_path: Path) -> None:
    (tmp_path / "empty.conf").write_text(f'api.api_server = "{subject.server.url}"\n')
    with pytest.raises(PermanentError, match="CLEARML_API_ACCESS_KEY"):
        ClearMLTracker(config_file=tmp_path / "empty.conf").connect()
    assert subject.server.requests == []


def test_wrong_credentials_are_permanent(subject: ClearMLSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARML_API_SECRET_KEY", "wrong")
    with pytest.raises(PermanentError, match="401"):
        subject.make().connect()


def test_offline_mode_is_refused(subject: ClearMLSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    with pytest.raises(PermanentError, match="CLEARML_OFFLINE_MODE"):
        subject.make().connect()


def test_settings_come_from_the_environment(subject: ClearMLSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in subject.server.variables().items():
        monkeypatch.setenv(name, value)
    tracker = ClearMLTracker()
    tracker.connect()
    assert tracker.open_run(RUN).startswith(f"{subject.server.url}/projects/")
    assert tracker.write_record(record("image", b"png", "image/png")).accepted == 1
    tracker.close()
    assert [media.content for media in subject.media("run-1")] == [b"png"]


def test_a_wrong_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="config_file"):
        ClearMLTracker(config_file=1)  # type: ignore[arg-type]


def test_a_missing_config_file_is_permanent(tmp_path: Path) -> None:
    with pytest.raises(PermanentError):
        ClearMLTracker(config_file=tmp_path / "none.conf").connect()


# -- runs ------------------------------------------------------------------------------------------


def test_a_run_is_described(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    assert subject.description("run-1") == {"name": "first", "project": "project", "experiment": "experiment"}
    task = subject.task("run-1")
    assert (task["type"], task["status"], task["tags"]) == ("training", "in_progress", ["model:resnet"])
    tags = {"model": "vit", "empty": "", "a.b$c": "d", "__$not": "x", "": "nameless", "tracelet_run_id": "no"}
    tracker.open_run(RunInfo("run-1", "second", "project", "experiment", tags))
    assert subject.description("run-1")["name"] == "second"
    assert subject.tags("run-1") == {**tags}
    assert subject.task("run-1")["tags"] == sorted(
        ["model:vit", "empty", "a.b$c:d", ":nameless", "tracelet_run_id:no"]
    )


@pytest.mark.parametrize(
    ("info", "name", "project"),
    [
        (RunInfo("run-1"), "run-1", "Default"),
        (RunInfo("run-1", "ab", "p", "e"), "ab_", "p__/e"),
        (RunInfo("run-1", " x ", "", " e "), "x__", "e__"),
        (RunInfo("run-1", "n" * 1000, "a.*", "[b]"), "n" * 1000, "a.*/[b]"),
    ],
)
def test_names_are_made_valid(
    subject: ClearMLSubject, make: Callable[[], ClearMLTracker], info: RunInfo, name: str, project: str
) -> None:
    for _ in range(2):  # found again
        make().open_run(info)
    task = subject.task("run-1")
    assert (task["name"], subject.server.store.projects[task["project"]]["name"]) == (name, project)
    if info.name:
        assert subject._properties(task)["tracelet_run_name"] == info.name


@pytest.mark.parametrize(
    ("status", "theirs"), [("finished", "completed"), ("failed", "failed"), ("killed", "stopped")]
)
def test_a_run_ends_and_resumes(
    subject: ClearMLSubject,
    tracker: ClearMLTracker,
    make: Callable[[], ClearMLTracker],
    status: Status,
    theirs: str,
) -> None:
    tracker.write_points("run-1", [series("x", (1, 1.0))])
    tracker.close_run("run-1", status)
    assert subject.task("run-1")["status"] == theirs
    again = make()
    again.open_run(RunInfo("run-1"))
    assert subject.task("run-1")["status"] == "in_progress"
    assert subject.description("run-1")["name"] == "first"
    again.write_points("run-1", [series("x", (2, 1.0))])
    again.close_run("run-1", "finished")
    assert subject.status("run-1") == "finished"
    assert len(subject.points("run-1")["x"]) == 2


def test_a_task_that_was_stopped_meanwhile_goes_on(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    """The server stops tasks that say nothing for two hours."""
    subject.task("run-1")["status"] = "stopped"
    assert tracker.write_record(params({"lr": 0.1})).accepted == 1
    assert subject.params("run-1") == {"lr": "0.1"}
    subject.task("run-1")["status"] = "failed"
    tracker.close_run("run-1", "finished")
    assert subject.status("run-1") == "finished"


def test_a_published_task_takes_nothing(
    subject: ClearMLSubject, tracker: ClearMLTracker, make: Callable[[], ClearMLTracker]
) -> None:
    subject.task("run-1")["status"] = "published"
    with pytest.raises(PermanentError, match="published"):
        make().open_run(RUN)
    with pytest.raises(PermanentError, match="Invalid task id"):
        tracker.write_points("run-1", [series("x", (1, 1.0))])


def test_a_task_id_is_a_run_id(subject: ClearMLSubject, make: Callable[[], ClearMLTracker]) -> None:
    task = subject.server.store.tasks_create({"name": "the user's", "type": "training"})["id"]
    tracker = make()
    tracker.open_run(RunInfo(task))
    assert list(subject.server.store.tasks) == [task]
    tracker.open_run(RunInfo("f" * 32))  # no task's id
    assert len(subject.server.store.tasks) == 2


def test_run_ids_are_told_apart(subject: ClearMLSubject, make: Callable[[], ClearMLTracker]) -> None:
    ids = ["run", "RUN", "r.n", "run-1", "-run", "__$not", "a b(c)*", "é"]
    for _ in range(2):
        tracker = make()
        for run_id in ids:
            tracker.open_run(RunInfo(run_id, run_id.ljust(3, "_")))
    assert len(subject.server.store.tasks) == len(ids)


def test_processes_that_race_share_one_task(
    subject: ClearMLSubject, make: Callable[[], ClearMLTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clearml_runs, "SETTLE_SECONDS", 0.2)
    trackers = [make() for _ in range(6)]
    barrier = threading.Barrier(len(trackers))
    failures: list[BaseException] = []

    def write(rank: int) -> None:
        try:
            barrier.wait()
            trackers[rank].open_run(RUN)
            trackers[rank].write_points("run-1", [series("x", (1, float(rank)), rank=rank)])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(rank,)) for rank in range(len(trackers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(subject.server.store.tasks) == 1
    assert len(subject.points("run-1")) == 6
    assert len([p for p in subject.server.store.projects.values() if p["name"] == "project/experiment"]) == 1


def test_several_runs_at_once(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    tracker.open_run(RunInfo("run-2", "other"))
    tracker.write_points("run-1", [series("x", (1, 1.0))])
    tracker.write_points("run-2", [Series("run-2", "x", [Point(1, 2.0, NOW)])])
    tracker.close_run("run-1", "finished")
    assert (subject.status("run-1"), subject.status("run-2")) == ("finished", "running")
    assert [subject.points(run)["x"][0].value for run in ("run-1", "run-2")] == [1.0, 2.0]
    with pytest.raises(PermanentError, match="not open"):
        tracker.write_points("run-1", [series("x", (2, 1.0))])


# -- records ---------------------------------------------------------------------------------------

HISTOGRAM = json.dumps(
    {
        "min": -1.0,
        "max": 3.0,
        "num": 4,
        "sum": 4.5,
        "sum_squares": 9.25,
        "bucket_limits": [-0.5, 0.1, 2.0, 1.7976931348623157e308],
        "bucket_counts": [1, 0, 2, 1],
    },
    indent=1,
).encode()


@pytest.mark.parametrize(
    ("kind", "mime_type", "suffix"),
    [
        ("image", "image/png", ".png"),
        ("image", "image/gif", ".gif"),
        ("figure", "image/png", ".png"),
        ("audio", "audio/wav", ".wav"),
        ("video", "video/mp4", ".mp4"),
        ("text", "text/markdown", ".md"),
    ],
)
def test_media_are_debug_samples_of_exact_bytes(
    subject: ClearMLSubject, tracker: ClearMLTracker, kind: Kind, mime_type: str, suffix: str
) -> None:
    payload = bytes(range(256)) * 5 + b"\r\n--boundary--\r\n"
    assert tracker.write_record(record(kind, payload, mime_type, tag="é ü/?#&%", step=-7)).accepted == 1
    [media] = subject.media("run-1")
    assert media == (kind, "é ü/?#&%", -7, payload)
    [event] = subject._events("run-1", "training_debug_image")
    assert event["url"].endswith(suffix)
    assert event["timestamp"] == NOW // 1_000_000


def test_several_images_of_one_step_are_all_kept(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    for index in range(3):
        tracker.write_record(record("image", b"%d" % index, "image/png", index=index))
    tracker.write_record(record("image", b"another", "image/png"))
    assert sorted(media.content for media in subject.media("run-1")) == [b"0", b"1", b"2", b"another"]


def test_a_text_is_on_the_console_too(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    tracker.write_record(record("text", b"hello", "text/plain"))
    tracker.write_record(record("text", "ü".encode() * 50_000, "text/plain", step=4))
    logs = [event["msg"] for event in subject._events("run-1", "log")]
    assert logs[0] == "a/b (step 3): hello"
    assert len(logs[1]) < 31_000
    assert logs[1].endswith("debug samples)")
    assert subject.media("run-1")[1].content == "ü".encode() * 50_000


def test_a_histogram_has_its_true_edges(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    assert tracker.write_record(record("histogram", HISTOGRAM)).aside == []
    [media] = subject.media("run-1")
    assert (media.kind, media.tag, media.step) == ("histogram", "a/b", 3)
    [bars] = subject.plots("run-1")[0]["data"]
    assert bars["type"] == "bar"
    assert bars["customdata"] == [[-1.0, -0.5], [0.1, 2.0], [2.0, 3.0]]
    assert bars["y"] == [1, 2, 1]
    assert media.content == HISTOGRAM


@pytest.mark.parametrize(
    "odd",
    [
        {"bucket_limits": [], "bucket_counts": []},
        {"min": math.nan, "max": math.nan, "bucket_limits": [math.inf], "bucket_counts": [1]},
        {"min": -1.7e308, "max": 1.7e308, "bucket_limits": [1.7e308], "bucket_counts": [3]},
    ],
)
def test_an_odd_histogram_is_kept(
    subject: ClearMLSubject, tracker: ClearMLTracker, odd: dict[str, Any]
) -> None:
    payload = json.dumps(odd).encode()
    assert tracker.write_record(record("histogram", payload)).accepted == 1
    assert subject.media("run-1")[0].content == payload


def test_a_pr_curve_is_a_plot(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    payload = b'{"precision": [1.0, 0.5], "recall": [0.0, 1.0], "thresholds": [0.9, 0.1]}'
    tracker.write_record(record("pr_curve", payload))
    [media] = subject.media("run-1")
    [line] = subject.plots("run-1")[0]["data"]
    assert (line["x"], line["y"]) == ([0.0, 1.0], [1.0, 0.5])
    assert media.content == payload


def test_a_mesh_is_a_plot_and_its_file(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    import numpy as np

    buffer = io.BytesIO()
    faces, vertices = np.array([[[0, 1, 2]]]), np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, np.nan]]])
    np.savez(buffer, vertices=vertices, faces=faces, colors=np.array([[[255, 0, 0]] * 3]))
    npz = buffer.getvalue()
    tracker.write_record(record("mesh", npz, "application/x-npz", mesh__config='{"a": 1}'))
    [media] = subject.media("run-1")
    assert media.kind == "mesh"
    [mesh] = subject.plots("run-1")[0]["data"]
    assert (mesh["type"], mesh["x"], mesh["i"]) == ("mesh3d", [0.0, 1.0, 0.0], [0])
    assert sorted(subject.files("run-1").values()) == sorted([npz, b'{"a": 1}'])
    tracker.write_record(record("mesh", b"broken", "application/x-npz", step=4))
    assert b"broken" in subject.files("run-1").values()


def test_params_are_flat_and_typed(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    values = {
        "lr": 0.001,
        "net": {"depth": 3, "sizes": [1, 2]},
        "a.b$c": True,
        "none": None,
        "name": "x",
        "e": "",
    }
    assert tracker.write_record(params(values)).aside == []
    assert subject.params("run-1") == {
        "lr": "0.001",
        "net/depth": "3",
        "net/sizes": "[1, 2]",
        "a.b$c": "True",
        "none": "None",
        "name": "x",
        "e": "",
    }
    section = subject.task("run-1")["hyperparams"]["General"]
    assert [section[name]["type"] for name in ("lr", "net/depth", "net/sizes")] == ["float", "int", "list"]


def test_params_that_clearml_cannot_hold_go_aside(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    tracker.write_record(params({"lr": 0.1, "a": 1}))
    long, odd = params({"t": "x" * 200_000}), params({"": 1, "ok": 1})
    for one in (long, odd):
        outcome = tracker.write_record(one)
        assert [aside.record for aside in outcome.aside if isinstance(aside, RecordAside)] == [one]
    [replaced] = tracker.write_record(params({"lr": 0.2, "b": 2})).aside
    assert isinstance(replaced, RecordAside)
    assert replaced.record.payload == b'{"lr": "0.1"}'
    stored = subject.params("run-1")
    assert len(stored.pop("t")) == 100_000
    assert stored == {"lr": "0.2", "a": "1", "b": "2", "ok": "1"}


def test_artifacts_have_their_exact_bytes(
    subject: ClearMLSubject, tracker: ClearMLTracker, tmp_path: Path
) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(bytes(range(256)) * 10_000)
    tracker.write_file("run-1", "tracelet/big ü.bin", big)
    tracker.write_record(record("artifact", b"one", file__name="dir/a.txt"))
    tracker.write_record(record("artifact", b"two", file__name="dir/a.txt"))
    tracker.write_record(record("embedding", b"1\t2", file__name="tensors.tsv"))
    tracker.write_record(record("layout", b"{}"))
    tracker.write_record(record("graph", b"pb", graph__part="graph_def"))
    media = Record("run-1", "artifact", "", 0, NOW, {"tracelet.file.name": "m"}, "", None, big.as_uri(), "")
    tracker.write_record(media)
    assert subject.files("run-1") == {
        "tracelet/big ü.bin": big.read_bytes(),
        "dir/a.txt": b"two",
        "embedding/a/b/3/tensors.tsv": b"1\t2",
        "tensorboard/custom_scalars.json": b"{}",
        "tensorboard/graph.pb": b"pb",
        "m": big.read_bytes(),
    }
    artifact = subject.task("run-1")["execution"]["artifacts"]["m", "output"]
    assert artifact["content_size"] == 2_560_000
    assert len(artifact["hash"]) == 64


def test_a_changed_media_file_is_rejected(tracker: ClearMLTracker, tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"changed")
    uri, digest = file.as_uri(), "0" * 64
    outcome = tracker.write_record(Record("run-1", "artifact", "x", 0, NOW, {}, "", None, uri, digest))
    assert "SHA-256" in outcome.rejected[0].reason
    file.unlink()
    assert tracker.write_record(Record("run-1", "artifact", "x", 0, NOW, {}, "", None, uri, digest)).rejected


def test_a_checkpoint_is_a_model(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    about: dict[str, Any] = {"checkpoint__path": "/x/a.ckpt", "checkpoint__score": 0.5}
    tracker.write_record(record("artifact", b"weights", file__name="checkpoints/a.ckpt", **about))
    tracker.write_record(record("artifact", b"new", file__name="checkpoints/a.ckpt", **about))
    absent = {"tracelet.checkpoint.path": "/x/b.ckpt"}
    tracker.write_record(Record("run-1", "artifact", "", 4, NOW, absent))
    output = subject.task("run-1")["models"]["output"]
    assert [item["name"] for item in output] == ["checkpoints/a.ckpt", "b.ckpt"]
    uris = [subject.server.store.models[item["model"]]["uri"] for item in output]
    assert subject._file(uris[0]) == b"new"
    assert uris[1] == "file:///x/b.ckpt"


def test_the_environment_is_in_its_place(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    environment = {
        "git": {"commit": "abc", "branch": "main", "repository": "https://example.org/r.git", "dirty": True},
        "python": {"version": "3.11.7", "executable": "/usr/bin/python3.11"},
        "packages": {"torch": "2.4.0", "numpy": "2.0"},
        "command": ["train.py", "--lr", "1"],
        "entry_point": "train.py",
        "working_dir": "src",
        "host": {"name": "node", "os": "Linux", "cpu_count": 8, "memory_bytes": 2**35},
        "gpus": [{"name": "H100", "memory_bytes": 80 * 2**30}] * 2,
    }
    subject.task("run-1")["runtime"]["mine"] = "kept"
    payload = json.dumps(environment).encode()
    assert tracker.write_record(record("environment", payload)).accepted == 1
    task = subject.task("run-1")
    assert task["script"] == {
        "repository": "https://example.org/r.git",
        "branch": "main",
        "version_num": "abc",
        "entry_point": "train.py",
        "working_dir": "src",
        "binary": "python3.11",
        "requirements": {"pip": "# Python 3.11.7\n\nnumpy == 2.0\ntorch == 2.4.0\n", "conda": ""},
    }
    runtime = task["runtime"]
    assert (runtime["mine"], runtime["hostname"], runtime["gpu_count"]) == ("kept", "node", 2)
    assert (runtime["memory_gb"], runtime["gpu_memory"]) == (32.0, "80GB, 80GB")
    assert subject.files("run-1")["tracelet/environment.json"] == payload
    assert tracker.write_record(record("environment", b"{}")).accepted == 1


@pytest.mark.parametrize("kind", ["params", "histogram", "pr_curve", "tags", "environment"])
@pytest.mark.parametrize("payload", [b"no json", b"[1]"])
def test_a_broken_record_is_rejected(tracker: ClearMLTracker, kind: Kind, payload: bytes) -> None:
    assert len(tracker.write_record(record(kind, payload)).rejected) == 1


# -- machine ---------------------------------------------------------------------------------------


def test_measurements_are_in_clearmls_own_charts(subject: ClearMLSubject, tracker: ClearMLTracker) -> None:
    def at(seconds: int) -> list[SystemPoint]:
        now = int(clearml_runs._seconds(subject.task("run-1")["created"]) + seconds) * 10**9 + 10**9
        grown = seconds * 2.0**20
        return [
            SystemPoint("system.cpu.utilization", {"cpu": 0, "state": "idle"}, 0.25, now),
            SystemPoint("system.cpu.utilization", {"cpu": 1, "state": "idle"}, 0.75, now),
            SystemPoint("system.cpu.utilization", {"cpu": 1, "state": "user"}, 0.1, now),
            SystemPoint("system.memory.usage", {"state": "used"}, 2.0**31, now),
            SystemPoint("system.memory.usage", {"state": "free"}, 2.0**30, now),
            SystemPoint("system.network.io", {"device": "eth0", "direction": "transmit"}, grown, now),
            SystemPoint("system.network.io", {"device": "eth1", "direction": "transmit"}, grown, now),
            SystemPoint("hw.gpu.utilization", {"hw.id": "0"}, 0.5, now),
            SystemPoint("hw.gpu.memory.usage", {"hw.id": "0"}, 2.0**32, now),
            SystemPoint("hw.temperature", {"hw.id": "0", "hw.type": "gpu"}, 61.0, now),
            SystemPoint("unknown.thing", {}, 1.0, now),
            SystemPoint("hw.power", {"hw.id": "0", "hw.type": "gpu"}, math.nan, now),
        ]

    assert tracker.write_system("run-1", at(10)).accepted == 12
    tracker.write_system("run-1", at(20))
    assert subject.system("run-1") == {
        ":monitor:machine/cpu_usage": [50.0, 50.0],
        ":monitor:machine/memory_used_gb": [2.0, 2.0],
        ":monitor:machine/memory_free_gb": [1.0, 1.0],
        ":monitor:machine/network_tx_mbs": [2.0],
        ":monitor:gpu/gpu_0_utilization": [50.0, 50.0],
        ":monitor:gpu/gpu_0_mem_used_gb": [4.0, 4.0],
        ":monitor:gpu/gpu_0_temperature": [61.0, 61.0],
    }
    assert {event["iter"] for event in subject._events("run-1", "training_stats_scalar")} == {10, 20}
    assert subject.points("run-1") == {}


def test_partitions_and_the_loopback_do_not_count_twice(
    subject: ClearMLSubject, tracker: ClearMLTracker
) -> None:
    def at(seconds: int) -> list[SystemPoint]:
        devices = [("disk", "nvme0n1"), ("disk", "nvme0n1p1"), ("network", "eth0"), ("network", "lo")]
        directions = {"disk": ("read", "write"), "network": ("receive", "transmit")}
        return [
            SystemPoint(
                *(f"system.{kind}.io", {"device": device, "direction": direction}),
                *(seconds * 10 * 2.0**20, NOW + seconds * 10**9),
            )
            for kind, device in devices
            for direction in directions[kind]
        ]

    tracker.write_system("run-1", at(0))
    tracker.write_system("run-1", at(10))
    assert subject.system("run-1") == {
        f":monitor:machine/{name}": [10.0]
        for name in ("io_read_mbs", "io_write_mbs", "network_rx_mbs", "network_tx_mbs")
    }


# -- OpenTelemetry ---------------------------------------------------------------------------------


def test_opentelemetrys_own_metrics_arrive(subject: ClearMLSubject) -> None:
    exporter = ClearMLMetricExporter(subject.config, run=RunInfo("run-1", "plain"))
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=INFINITY)])
    provider.get_meter("test").create_gauge("loss").set(0.25)
    assert provider.force_flush()
    provider.shutdown()
    assert [point.value for point in subject.points("run-1")["loss"]] == [0.25]
    assert subject.status("run-1") == "finished"
