"""The tracker against the real W&B client: offline runs from their logs, online ones from a server."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.wandb_server import WandbServer
from tests.support.wandb_subject import WandbSubject, decode, make_subject, rows, tag_and_rank
from tracelet_otel import semconv
from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.otlp.intervals import Intervals
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series, SystemPoint
from tracelet_otel_exporters.wandb import names as wandb_names
from tracelet_otel_exporters.wandb import plots as wandb_plots
from tracelet_otel_exporters.wandb import points as wandb_points
from tracelet_otel_exporters.wandb import private, run_settings
from tracelet_otel_exporters.wandb import tracker as tracker_module
from tracelet_otel_exporters.wandb.tracker import WandbTracker

NOW = 1_700_000_000_123_456_000
SECOND = 1_000_000_000
FIRST = 1_700_000_000_000_000
"""A series' first sequence number."""


@pytest.fixture
def subject(tmp_path: Path) -> WandbSubject:
    return make_subject(tmp_path)


@pytest.fixture
def make(subject: WandbSubject) -> Iterator[Callable[[], WandbTracker]]:
    """Makes connected clients, and sees to it that no ``wandb-core`` is left."""
    made: list[WandbTracker] = []
    before = cores()

    def connected() -> WandbTracker:
        made.append(subject.make())
        made[-1].load()
        made[-1].connect()
        return made[-1]

    yield connected
    for tracker in made:
        tracker.close()
    assert cores() == before


def cores() -> set[int]:
    """The ``wandb-core`` processes that this process started."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        if name.endswith("(wandb-core") and rest.split()[1] == str(os.getpid()) and rest.split()[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def info(run_id: str = "run-1", **more: Any) -> RunInfo:
    return RunInfo(run_id, "a name", "a project", "an experiment", {"team": "vision", "new": ""}, **more)


def series(tag: str, values: list[float], sequence: int | None = FIRST, step: int = 0, **more: Any) -> Series:
    points = [
        Point(step + i, value, NOW + (step + i) * SECOND + len(tag) * 1_000_000)
        for i, value in enumerate(values)
    ]
    return Series("run-1", tag, points, sequence=sequence, **more)


def values(subject: WandbSubject, tag: str) -> list[float]:
    return [point.value for point in subject.points("run-1").get(tag, [])]


# -- points -------------------------------------------------------------------------------------------


def test_points_are_exact(make: Callable[[], WandbTracker], subject: WandbSubject) -> None:
    tracker = make()
    tracker.open_run(info())
    given = [0.1, -0.0, 1e-320, 0.30000000000000004, 1.797e308, math.nan, math.inf, -math.inf]
    outcome = tracker.write_points("run-1", [series("train/loss", given), series("a.b", [1.0, 2.0])])
    tracker.close_run("run-1", "finished")
    assert (outcome.accepted, outcome.lossy, outcome.rejected, outcome.aside) == (10, [], [], [])
    points = subject.points("run-1")
    assert repr([point.value for point in points["train/loss"]]) == repr(given)
    assert [point.step for point in points["train/loss"]] == list(range(8))
    assert [point.value for point in points["a.b"]] == [1.0, 2.0]
    for step, point in enumerate(points["train/loss"]):
        assert abs(point.time_unix_nano - (NOW + step * SECOND)) <= 100_000_000


def test_tags_of_one_step_share_a_row(make: Callable[[], WandbTracker], subject: WandbSubject) -> None:
    tracker = make()
    tracker.open_run(info())
    tracker.write_points("run-1", [series(tag, [1.0, 2.0, 3.0]) for tag in ("a", "b", "c")])
    tracker.close_run("run-1", "finished")
    [log] = subject.logs("run-1")
    assert [{"a", "b", "c"} <= row.keys() for row in rows(log)] == [True] * 3
    assert [row["_step"] for row in rows(log)] == [0, 1, 2]


def test_steps_that_go_back_and_repeat_are_kept(
    make: Callable[[], WandbTracker], subject: WandbSubject
) -> None:
    tracker = make()
    tracker.open_run(info())
    steps = [5, 5, -1, 2**63 - 1, -(2**63), 5]
    points = [Point(step, float(i), NOW + i * SECOND) for i, step in enumerate(steps)]
    outcome = tracker.write_points("run-1", [Series("run-1", "s", points)])
    tracker.close_run("run-1", "finished")
    assert (outcome.accepted, outcome.rejected) == (6, [])
    stored = sorted((point.step, point.value) for point in subject.points("run-1")["s"])
    assert stored == sorted((step, float(i)) for i, step in enumerate(steps))


def test_hard_names_and_ranks_stay_apart(make: Callable[[], WandbTracker], subject: WandbSubject) -> None:
    tags = ["_step", "_timestamp", "_runtime", "_wandb", "global_step", "", "%", "%41", "A", "a/rank_1", "a"]
    tags += ["_tracelet_points", "x" * 300, "ä ö/ü", "a\nb", "tab\t", "acc%", "..", "*", "a.b", "system.cpu"]
    tracker = make()
    tracker.open_run(info())
    given = [series(tag, [float(i)], step=i) for i, tag in enumerate(tags)]
    given.append(series("a", [77.0], step=99, rank=1))
    given.append(series("a", [78.0], step=100, rank=0))
    tracker.write_points("run-1", given)
    tracker.close_run("run-1", "finished")
    expected = {tag: [float(i)] for i, tag in enumerate(tags)}
    expected["a"].append(78.0)
    expected["a/rank_1"].append(77.0)  # where a reader without the names' table sees both
    found = {tag: [p.value for p in points] for tag, points in subject.points("run-1").items()}
    assert found == expected
    [log] = subject.logs("run-1")
    assert {"a/rank_1", "a/rank%5F1"} <= {key for row in rows(log) for key in row}
    names = subject.config("run-1")["tracelet"]["names"]["metrics"]
    assert names["%5Fstep"] == "_step"
    assert names["a/rank%5F1"] == "a/rank_1"


# -- nothing twice ------------------------------------------------------------------------------------


def test_the_same_points_again_are_not_logged_again(
    make: Callable[[], WandbTracker], subject: WandbSubject
) -> None:
    first = make()
    first.open_run(info())
    for _ in range(2):
        outcome = first.write_points("run-1", [series("a", [0.0, 1.0, 2.0, 3.0]), series("b", [9.0])])
        assert outcome.accepted == 5
    first.close_run("run-1", "finished")
    second = make()
    second.open_run(RunInfo("run-1"))
    outcome = second.write_points("run-1", [series("a", [0.0, 1.0, 2.0, 3.0])])
    assert outcome.accepted == 4
    part = series("a", [2.0, 3.0, 4.0, 5.0], FIRST + 2, step=2)
    assert second.write_points("run-1", [part]).accepted == 4
    assert second.write_points("run-1", [series("a", [6.0], None, step=6)] * 2).accepted == 2
    second.close_run("run-1", "finished")
    third = make()
    third.open_run(RunInfo("run-1"))
    third.write_points("run-1", [series("a", [4.0, 5.0], FIRST + 4, step=4)])
    third.close_run("run-1", "finished")
    assert values(subject, "a") == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.0]
    assert values(subject, "b") == [9.0]
    assert subject.description("run-1") == {
        "name": "a name",
        "project": "a project",
        "experiment": "an experiment",
    }
    assert len({tuple(sorted(row)) for log in subject.logs("run-1") for row in rows(log)}) > 1


def test_after_a_kill_the_log_says_what_was_taken(
    make: Callable[[], WandbTracker], subject: WandbSubject
) -> None:
    script = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
import tracelet_otel
from tests.exporters.wandb.test_wandb import info, series
from tests.support.wandb_server import WandbServer
from tests.support.wandb_subject import make_subject
from pathlib import Path
tracker = make_subject(Path({str(subject.folder)!r})).make()
tracker.load()
tracker.connect()
tracker.open_run(info())
tracker.write_points("run-1", [series("a", [0.0, 1.0])])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    tracker = make()
    tracker.open_run(info())
    tracker.write_points("run-1", [series("a", [0.0, 1.0, 2.0])])
    tracker.close_run("run-1", "finished")
    assert values(subject, "a") == [0.0, 1.0, 2.0]


def test_a_wandb_core_that_dies_is_replaced(make: Callable[[], WandbTracker], subject: WandbSubject) -> None:
    tracker = make()
    tracker.open_run(info())
    tracker.write_points("run-1", [series("a", [0.0, 1.0])])
    deadline = time.monotonic() + 10
    while values(subject, "a") != [0.0, 1.0]:  # its buffer is written every tenth of a second
        assert time.monotonic() < deadline
    [core] = cores()
    os.kill(core, signal.SIGTERM)
    assert tracker._core is not None
    assert tracker._core._process is not None
    tracker._core._process.wait(10)
    with pytest.raises(TransientError):
        tracker.write_points("run-1", [series("a", [2.0], FIRST + 2, step=2)])
    assert tracker.write_points("run-1", [series("a", [2.0], FIRST + 2, step=2)]).accepted == 1
    tracker.close_run("run-1", "finished")
    assert values(subject, "a") == [0.0, 1.0, 2.0]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), max_size=20))
def test_intervals_are_a_set_of_numbers(parts: list[tuple[int, int]]) -> None:
    intervals, numbers = Intervals(), set[int]()
    for start, length in parts:
        missing = {n for first, end in intervals.missing(start, start + length) for n in range(first, end)}
        assert missing == set(range(start, start + length)) - numbers
        intervals.add(start, start + length)
        numbers |= set(range(start, start + length))
    assert {n for start, end in Intervals(str(intervals)) for n in range(start, end)} == numbers


# -- rows and names -----------------------------------------------------------------------------------


def test_rows_join_only_what_was_logged_together() -> None:
    near, far = NOW + 99_000_000, NOW + 200_000_000
    joined = wandb_points.rows(
        [
            ("a", [Point(1, 1.0, NOW), Point(1, 2.0, NOW)]),
            ("b", [Point(1, 3.0, near)]),
            ("c", [Point(1, 4.0, far)]),
        ]
    )
    assert [(row.step, row.time, row.values) for row in joined] == [
        (1, NOW, {"a": 1.0, "b": 3.0}),
        (1, NOW, {"a": 2.0}),
        (1, far, {"c": 4.0}),
    ]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 10)), max_size=40))
def test_rows_hold_every_point_once(logged: list[tuple[str, int, int]]) -> None:
    given = {
        key: [
            Point(step, float(i), NOW + time * 40_000_000)
            for i, (k, step, time) in enumerate(logged)
            if k == key
        ]
        for key in "abc"
    }
    stored: list[tuple[str, int, float]] = []
    for row in wandb_points.rows(given.items()):
        for key, value in row.values.items():
            [point] = [point for point in given[key] if point.value == value]
            assert abs(point.time_unix_nano - row.time) <= wandb_points.JOIN_NS
            stored.append((key, row.step, value))
    assert sorted(stored) == sorted((key, p.step, p.value) for key, points in given.items() for p in points)


_names = st.text(st.sampled_from("a_%/.5Frank1-x\x00\nglobstepä\ud800"), max_size=12) | st.text(max_size=8)


@given(_names)
def test_names_come_back(name: str) -> None:
    key = wandb_names.metric_key(name)
    assert tag_and_rank(key) == (name, None)
    assert tag_and_rank(wandb_names.metric_key(name, 3)) == (name, 3)
    assert key
    assert not key.startswith("_")
    assert key != wandb_names.STEP
    assert wandb_names.encode(name) == name or wandb_names.encode(wandb_names.encode(name)) != name
    wandb.Settings(run_id=wandb_names.run_id(name), project=wandb_names.project(name) or None)
    assert 1 <= len(wandb_names.tag(name, "v")) <= wandb_names.MAX_TAG


@given(_names, _names)
def test_no_two_names_become_one(one: str, other: str) -> None:
    if one != other:
        assert wandb_names.metric_key(one) != wandb_names.metric_key(other)
        assert wandb_names.run_id(one) != wandb_names.run_id(other)
        assert wandb_names.project(one) != wandb_names.project(other)
        assert wandb_names.config_key(one) != wandb_names.config_key(other)
        assert wandb_names.media_key(one) != wandb_names.media_key(other)
        assert wandb_names.file(one) != wandb_names.file(other)


@pytest.mark.parametrize(
    "name", ["loss", "train/loss", "a.b", "lr-Adam/pg1", "val acc (%)", "Ä", "50%", "a_b"]
)
def test_common_names_stay(name: str) -> None:
    assert wandb_names.metric_key(name) == name


# -- runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["finished", "failed", "killed"])
def test_description_and_status(
    make: Callable[[], WandbTracker], subject: WandbSubject, status: semconv.Status
) -> None:
    tracker = make()
    where = tracker.open_run(info())
    assert Path(where).is_dir()
    assert subject.folder in Path(where).parents
    assert subject.status("run-1") == "running"
    assert subject.description("run-1") == {
        "name": "a name",
        "project": "a project",
        "experiment": "an experiment",
    }
    deadline = time.monotonic() + 60  # W&B's process writes it when it gets round to it
    while subject.tags("run-1") != {"team": "vision", "new": ""}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    tracker.open_run(RunInfo("run-1", "another name", "a project", "", {"team": "audio"}))
    tracker.close_run("run-1", status)
    assert subject.status("run-1") == status
    assert subject.description("run-1")["name"] == "another name"
    assert subject.tags("run-1") == {"team": "audio", "new": ""}
    assert sorted(subject.run("run-1").tags) == ["new", "team:audio"]


def test_runs_that_are_open_together_stay_apart(
    make: Callable[[], WandbTracker], subject: WandbSubject
) -> None:
    tracker = make()
    ids = ["one", "a run/with: all #kinds? of;characters", "sha256-" + "0" * 40]
    for run_id in ids:
        tracker.open_run(RunInfo(run_id))
    for number, run_id in enumerate(ids):
        tracker.write_points(run_id, [Series(run_id, "x", [Point(number, float(number), NOW)])])
    for run_id in ids:
        tracker.close_run(run_id, "finished")
    for number, run_id in enumerate(ids):
        assert [point.value for point in subject.points(run_id)["x"]] == [float(number)]


def test_close_leaves_an_open_run_running(make: Callable[[], WandbTracker], subject: WandbSubject) -> None:
    tracker = make()
    tracker.open_run(info())
    tracker.write_points("run-1", [series("a", [1.0])])
    tracker.close()
    tracker.close()
    assert cores() == set()
    assert values(subject, "a") == [1.0]
    assert subject.status("run-1") == "running"


def test_an_unknown_run_is_refused(make: Callable[[], WandbTracker]) -> None:
    with pytest.raises(PermanentError, match="not open"):
        make().write_points("nobody", [])


# -- the user's process -------------------------------------------------------------------------------


def state() -> dict[str, Any]:
    from wandb.errors import term
    from wandb.sdk import wandb_setup

    return {
        "environ": dict(os.environ),
        "stdout": sys.stdout,
        "stderr": sys.stderr,
        "write": sys.stdout.write,
        "exit": sys.exit,
        "excepthook": sys.excepthook,
        "threading": threading.excepthook,
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "meta_path": list(sys.meta_path),
        "run": wandb.run,
        "silent": term._silent,
        "singleton": wandb_setup.singleton,
        "setup": wandb_setup._singleton,
        "threads": {thread.name for thread in threading.enumerate()},
    }


def test_the_process_stays_as_it_was(
    make: Callable[[], WandbTracker], capfd: pytest.CaptureFixture[str]
) -> None:
    before = state()
    tracker = make()
    tracker.open_run(info())
    during = state()
    tracker.write_points("run-1", [series("a", [1.0])])
    tracker.close_run("run-1", "finished")
    tracker.close()
    assert state() == before
    assert {**during, "threads": before["threads"]} == before
    assert capfd.readouterr() == ("", "")


def test_the_users_own_wandb_is_apart(
    make: Callable[[], WandbTracker], subject: WandbSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = make()
    tracker.open_run(info())
    # A variable set after ours has begun counts, as it would without us.
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "user").mkdir()
    try:
        mine = wandb.init(project="mine", id="mine")
        assert wandb.run is mine
        wandb.log({"m": 1.0})
        tracker.write_points("run-1", [series("a", [1.0])])
        wandb.log({"m": 2.0})
        tracker.close_run("run-1", "finished")
        tracker.close()
        assert wandb.run is mine
        wandb.log({"m": 3.0})
        wandb.finish()
        again = wandb.init(project="mine", id="again")
        assert again.id == "again"
        again.log({"m": 4.0})
        again.finish()
    finally:
        wandb.teardown()
    logs = sorted((tmp_path / "user" / "wandb").glob("offline-run-*/*.wandb"), key=lambda p: p.stem)
    assert [[row["m"] for row in rows(log)] for log in logs] == [[4.0], [1.0, 2.0, 3.0]]
    assert values(subject, "a") == [1.0]
    assert cores() == set()


def test_without_a_key_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(sys, "stdin", None)
    tracker = WandbTracker(mode="online", dir=tmp_path)
    try:
        with pytest.raises(PermanentError, match="WANDB_API_KEY"):
            tracker.connect()
    finally:
        tracker.close()


def test_disabled_by_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = WandbTracker(dir=tmp_path)
    try:
        with pytest.raises(PermanentError, match="disabled"):
            tracker.connect()
    finally:
        tracker.close()


def test_importing_us_does_not_import_wandb() -> None:
    code = "import sys, tracelet_otel_exporters.wandb.otel; print('wandb' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("wrong", [{"project": 1}, {"mode": "sometimes"}, {"dir": 3}, {"entity": b""}])
def test_wrong_options_are_type_errors(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(TypeError):
        WandbTracker(**wrong)


# -- records ------------------------------------------------------------------------------------------


def png(color: str = "red", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), color).save(buffer, kind)
    return buffer.getvalue()


def wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def record(kind: Any, payload: Any, tag: str = "a/tag", step: int = 3, **more: Any) -> Record:
    content = payload if isinstance(payload, bytes | None) else json.dumps(payload).encode()
    attributes: Mapping[str, object] = more.pop("attributes", {})
    return Record("run-1", kind, tag, step, more.pop("time", NOW), attributes, payload=content, **more)


@pytest.fixture
def opened(make: Callable[[], WandbTracker]) -> WandbTracker:
    tracker = make()
    tracker.open_run(info())
    return tracker


def test_media_keep_their_bytes_and_step(opened: WandbTracker, subject: WandbSubject) -> None:
    jpeg, gif = png("blue", "JPEG"), png("green", "GIF")
    written = [
        record("image", png(), "im/age", mime_type="image/png"),
        record("figure", jpeg, "fig", mime_type="image/jpeg"),
        record("image", png("black"), "several", mime_type="image/png", attributes={semconv.INDEX: 2}),
        record("image", png("white"), "ranked", mime_type="image/png", attributes={semconv.RANK: 2}),
        record("image", png("gray"), "x" * 300, mime_type="image/png"),
        record("image", png("pink"), "../../up", mime_type="image/png"),
        record("audio", wav(), "sound", mime_type="audio/wav"),
        record("video", gif, "film", mime_type="image/gif"),
        record("text", "<b> & \r\n \u2028 ünï</pre>\n".encode(), "note", mime_type="text/markdown"),
    ]
    for one in written:
        outcome = opened.write_record(one)
        assert (outcome.accepted, outcome.lossy, outcome.rejected, outcome.aside) == (1, [], [], [])
    opened.close_run("run-1", "finished")
    stored = {(media.tag, media.content) for media in subject.media("run-1") if media.step == 3}
    names = {one.tag: one.payload for one in written}
    names["several/2"], names["ranked/rank_2"] = names.pop("several"), names.pop("ranked")
    [cut] = [tag for tag, _ in stored if tag.startswith("xxx")]
    names[cut], names["%2E%2E/%2E%2E/up"] = names.pop("x" * 300), names.pop("../../up")
    assert stored == {(decode(tag), content) for tag, content in names.items()}
    [note] = [name for name in subject.files("run-1") if name.startswith("text/note/3")]
    assert note.endswith(".md")
    assert subject.files("run-1")[note] == names["note"]
    [log] = subject.logs("run-1")
    assert all(row["_timestamp"] == NOW / SECOND for row in rows(log))


def test_media_outlive_the_temporary_folder(
    opened: WandbTracker, subject: WandbSubject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A temporary folder of a job goes with the job, and the system removes old ones."""
    media = private.MEDIA_FOLDER.get()
    assert media is not None
    monkeypatch.setattr(media, "name", str(tmp_path / "of a job" / "media"))
    assert opened.write_record(record("image", png(), mime_type="image/png")).accepted == 1
    opened.close_run("run-1", "finished")
    [stored] = subject.media("run-1")
    assert stored.content == png()


def test_a_broken_image_is_kept_as_a_file(opened: WandbTracker, subject: WandbSubject) -> None:
    outcome = opened.write_record(record("image", b"no image", mime_type="image/png"))
    opened.close_run("run-1", "finished")
    assert outcome.accepted == 1
    assert outcome.lossy
    assert b"no image" in subject.files("run-1").values()


def test_the_same_record_again_is_not_logged_again(
    make: Callable[[], WandbTracker], subject: WandbSubject
) -> None:
    given = [record("image", png(), mime_type="image/png", time=NOW + i) for i in range(3)]
    for count in (2, 3):
        tracker = make()
        tracker.open_run(info())
        for one in given[:count] * 2:
            assert tracker.write_record(one).accepted == 1
        tracker.close_run("run-1", "finished")
    assert len(subject.media("run-1")) == 3


def test_histogram(opened: WandbTracker, subject: WandbSubject) -> None:
    limits = [-1e-12, 0.5, 1.0, 1.797e308]
    payload = {"min": -2.0, "max": 3.0, "num": 10.0, "sum": 4.0, "sum_squares": 9.0}
    payload |= {"bucket_limits": limits, "bucket_counts": [1.0, 2.0, 3.0, 4.0]}
    outcome = opened.write_record(record("histogram", payload, "h"))
    opened.close_run("run-1", "finished")
    assert (outcome.accepted, len(outcome.aside)) == (1, 1)
    [media] = subject.media("run-1")
    assert (media.kind, media.tag, media.step) == ("histogram", "h", 3)
    stored = json.loads(media.content)
    assert stored["values"] == [1.0, 2.0, 3.0, 4.0]
    assert stored["bins"] == [-2.0, -1e-12, 0.5, 1.0, 3.0]


@given(st.integers(1, 3000), st.booleans())
def test_histograms_have_few_bins_and_every_count(count: int, is_default: bool) -> None:
    limits = [float(i) for i in range(count)]
    if is_default:
        limits[-1] = 1.797e308
    counts = [float(i % 7) for i in range(count)]
    binned = wandb_plots.bins(
        {"bucket_limits": limits, "bucket_counts": counts, "min": -3.0, "max": count + 1.0}
    )
    assert binned is not None
    values, edges = binned
    assert len(values) <= wandb_plots.MAX_BINS
    assert len(edges) == len(values) + 1
    assert sum(values) == sum(counts)
    assert all(left < right for left, right in itertools.pairwise(edges))
    assert edges[0] == -3.0


def test_pr_curve(opened: WandbTracker, subject: WandbSubject) -> None:
    curve = {"precision": [0.5, 1.0], "recall": [1.0, 0.1], "thresholds": [0.0, 0.9]}
    curve |= {name: [3.0, 1.0] for name in ("true_positives", "false_positives")}
    curve |= {name: [2.0, 4.0] for name in ("true_negatives", "false_negatives")}
    outcome = opened.write_record(record("pr_curve", curve, "pr"))
    opened.close_run("run-1", "finished")
    assert (outcome.accepted, len(outcome.aside)) == (1, 1)
    [media] = [media for media in subject.media("run-1") if media.kind == "pr_curve"]
    table = json.loads(media.content)
    assert {name: [row[i] for row in table["data"]] for i, name in enumerate(table["columns"])} == curve
    assert "visualize" in subject.config("run-1")["_wandb"]


def test_mesh(opened: WandbTracker, subject: WandbSubject) -> None:
    vertices = np.array([[[0, 0, 0], [1, 0, 0], [0, 1.5, 0]]], np.float32)
    colors = np.array([[[255, 0, 0]] * 3], np.uint8)
    with_faces = npz(vertices=vertices, faces=np.array([[[0, 1, 2]]]), colors=colors)
    cloud = npz(vertices=vertices, colors=colors)
    attributes = {semconv.MESH_CONFIG: '{"camera": 1}'}
    opened.write_record(record("mesh", with_faces, "mesh", attributes=attributes))
    opened.write_record(record("mesh", cloud, "cloud"))
    assert opened.write_record(record("mesh", b"no npz", "broken")).rejected
    opened.close_run("run-1", "finished")
    media = {media.tag: media.content for media in subject.media("run-1")}
    assert b"f 1 2 3\n" in media["mesh"]
    assert b"v 0 1.5 0 1 0 0\n" in media["mesh"]
    assert json.loads(media["cloud"])[2] == [0.0, 1.5, 0.0, 255, 0, 0]
    files = subject.files("run-1")
    assert {with_faces, cloud, b'{"camera": 1}'} <= set(files.values())


def test_files(opened: WandbTracker, subject: WandbSubject, tmp_path: Path) -> None:
    def named(name: str, **more: Any) -> dict[str, Any]:
        return {"attributes": {semconv.FILE_NAME: name, **more}}

    opened.write_record(record("artifact", b"old", **named("models/a b.pt")))
    opened.write_record(record("artifact", b"new", **named("models/a b.pt")))
    opened.write_record(record("artifact", b"mine", **named("wandb-metadata.json")))
    opened.write_record(record("artifact", b"up", **named("../../up")))
    more = {semconv.CHECKPOINT_PATH: "/x/last.ckpt", semconv.CHECKPOINT_SCORE: 0.5}
    opened.write_record(record("artifact", None, attributes=more))
    opened.write_record(record("embedding", b"tensor", "emb", **named("tensors.tsv")))
    opened.write_record(record("layout", {"l": 1}))
    opened.write_record(record("graph", b"graph", attributes={semconv.GRAPH_PART: "graph_def"}))
    opened.write_record(record("graph", b"run", "t", attributes={semconv.GRAPH_PART: "run_metadata"}))
    (tmp_path / "c.jsonl").write_bytes(b"companion")
    opened.write_file("run-1", "tracelet/companion-1.jsonl", tmp_path / "c.jsonl")
    opened.close_run("run-1", "finished")
    files = subject.files("run-1")
    assert files["models/a b.pt"] == b"new"
    assert json.loads(files["checkpoints/last.ckpt.json"])["score"] == 0.5
    assert files["embedding/emb/3/tensors.tsv"] == b"tensor"
    assert files["tensorboard/custom_scalars.json"] == b'{"l": 1}'
    assert files["tensorboard/graph.pb"] == b"graph"
    assert files["tensorboard/run_metadata/t.pb"] == b"run"
    assert files["tracelet/companion-1.jsonl"] == b"companion"
    assert {b"mine", b"up"} <= set(files.values())
    assert not (tmp_path / "up").exists()


def test_params_and_tags(make: Callable[[], WandbTracker], subject: WandbSubject) -> None:
    tracker = make()
    tracker.open_run(info())
    params = {"lr": 0.1, "model": {"depth": 3, "names": ["a", "b"]}, "a.b": True, "_x": None, "tracelet": 1}
    tracker.write_record(record("params", {**params, "nan": math.nan, "long": "x" * 20_000}))
    tracker.write_record(record("params", {"lr": 0.2}))
    tracker.write_record(record("tags", {"stage": "final", "": "nameless", "long": "v" * 100}))
    tracker.close_run("run-1", "finished")
    again = make()
    again.open_run(RunInfo("run-1"))
    again.write_record(record("params", {"more": 5}))
    again.close_run("run-1", "finished")
    stored = subject.params("run-1")
    assert stored["lr"] == "0.2"
    assert stored["model/depth"] == "3"
    assert stored["model/names"] == "['a', 'b']"
    assert (stored["a.b"], stored["_x"], stored["tracelet"], stored["nan"]) == ("True", "None", "1", "nan")
    assert (len(stored["long"]), stored["more"]) == (20_000, "5")
    tags = {"team": "vision", "new": "", "stage": "final", "": "nameless", "long": "v" * 100}
    assert subject.config("run-1")["tracelet"]["tags"] == tags
    assert {"team:vision", "new", "stage:final", ":nameless"} <= set(subject.run("run-1").tags)


def test_environment(opened: WandbTracker, subject: WandbSubject) -> None:
    environment = {
        "git": {"commit": "c0ffee", "branch": "main", "repository": "https://h/r", "dirty": True},
        "python": {"version": "3.11.1", "executable": "/usr/bin/python"},
        "packages": {"torch": "2.1", "numpy": "2.0"},
        "command": ["train.py", "--lr", "1"],
        "entry_point": "train.py",
        "working_dir": "/w",
        "host": {"name": "node", "os": "Linux", "cpu_count": 8, "memory_bytes": 2**40},
        "gpus": [{"name": "H100", "memory_bytes": 80 * 2**30}],
        "variables": {"A": "b"},
    }
    assert opened.write_record(record("environment", environment, "")).accepted == 1
    opened.close_run("run-1", "finished")
    files = subject.files("run-1")
    assert json.loads(files["tracelet/environment.json"]) == environment
    about = json.loads(files["wandb-metadata.json"])
    assert about["git"] == {"remote": "https://h/r", "commit": "c0ffee", "branch": "main"}
    assert (about["args"], about["program"], about["gpu"]) == (["--lr", "1"], "train.py", "H100")
    assert files["requirements.txt"] == b"numpy==2.0\ntorch==2.1\n"


def test_an_unreadable_record_costs_only_itself(opened: WandbTracker) -> None:
    gone = Record("run-1", "text", "t", 1, NOW, {}, uri="/nowhere/file", sha256="0")
    assert opened.write_record(gone).rejected
    assert opened.write_record(record("params", [1])).rejected
    unknown: Any = "hologram"
    assert opened.write_record(record(unknown, b"")).rejected


# -- the machine --------------------------------------------------------------------------------------


def test_system(opened: WandbTracker, subject: WandbSubject) -> None:
    def point(name: str, value: float, seconds: int = 0, **attributes: Any) -> SystemPoint:
        named = {key.replace("__", "."): value for key, value in attributes.items()}
        return SystemPoint(name, named, value, NOW + seconds * SECOND)

    points = [
        point("system.cpu.utilization", 0.25, cpu=1, state="user"),
        point("system.cpu.utilization", 0.05, cpu=1, state="system"),
        point("system.cpu.utilization", 0.7, cpu=1, state="idle"),
        point("system.memory.utilization", 0.5, state="used"),
        point("process.memory.usage", 3 * 2**20),
        point("system.network.io", 1000.0, device="eth0", direction="transmit"),
        point("hw.gpu.utilization", 0.75, hw__id="0", hw__name="H100"),
        point("hw.gpu.memory.usage", 1e9, hw__id="0"),
        point("hw.temperature", 60.0, hw__id="0", hw__type="gpu"),
        point("hw.power", 300.0, hw__id="0", hw__type="gpu"),
        point("system.swap.usage", 5.0, state="used"),
        point("process.memory.usage", 2**20, host__name="node-2"),
        point("system.network.io", 1500.0, 10, device="eth0", direction="transmit"),
    ]
    assert opened.write_system("run-1", points).accepted == len(points)
    opened.close_run("run-1", "finished")
    stored = subject.system("run-1")
    assert stored == {
        "system.cpu.0.cpu_percent": [pytest.approx(30.0)],
        "system.cpu": [pytest.approx(30.0)],
        "system.memory_percent": [50.0],
        "system.proc.memory.rssMB": [3.0],
        "system.proc.memory.rssMB/l:node-2": [1.0],
        "system.network.sent": [0.0, 500.0],
        "system.gpu.0.gpu": [75.0],
        "system.gpu.0.memoryAllocatedBytes": [1e9],
        "system.gpu.0.temp": [60.0],
        "system.gpu.0.powerWatts": [300.0],
        "system.swap.usage.state=used": [5.0],
    }


# -- online -------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        monkeypatch.setenv("WANDB_MODE", "online")
        yield running


@pytest.fixture
def online(server: WandbServer, tmp_path: Path) -> Iterator[Callable[[], WandbTracker]]:
    made: list[WandbTracker] = []

    def connected() -> WandbTracker:
        made.append(WandbTracker(dir=tmp_path))
        made[-1].load()
        made[-1].connect()
        return made[-1]

    yield connected
    for tracker in made:
        tracker.close()
    assert cores() == set()


@pytest.mark.parametrize("theirs", ["", "their group"])
def test_online_a_run_comes_into_the_group_of_its_children(
    online: Callable[[], WandbTracker], server: WandbServer, theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", theirs)
    tracker, parent = online(), RunInfo("parent", "a name")
    tracker.open_run(parent)
    tracker.open_run(replace(parent, family="a name-1234"))
    tracker.open_run(RunInfo("child", parent="parent", family="a name-1234"))
    tracker.close_run("child", "finished")
    tracker.close_run("parent", "finished")
    group = theirs or "a name-1234"
    assert (server.runs["parent"].group, server.runs["child"].group) == (group, group)
    assert server.runs["parent"].display_name == "a name"


def test_online_everything_arrives(online: Callable[[], WandbTracker], server: WandbServer) -> None:
    tracker = online()
    assert tracker.open_run(info()) == f"{server.url}/somebody/a%20project/runs/run-1"
    given = [0.1, math.nan, -math.inf, 1e-320]
    assert tracker.write_points("run-1", [series("a", given), series("_b", [5.0])]).accepted == 5
    tracker.write_record(record("image", png(), "im", mime_type="image/png"))
    curve = {"precision": [0.5, 1.0], "recall": [1.0, 0.1]}
    assert tracker.write_record(record("pr_curve", curve, "pr")).accepted == 1
    tracker.write_record(record("artifact", b"exact", attributes={semconv.FILE_NAME: "m/a.pt"}))
    tracker.write_record(record("params", {"lr": 0.5}))
    tracker.write_system("run-1", [SystemPoint("hw.gpu.utilization", {"hw.id": "0"}, 0.5, NOW)])
    tracker.close_run("run-1", "failed")
    run = server.runs["run-1"]
    assert repr([float(row["a"]) for row in run.rows if "a" in row]) == repr(given)
    assert [row["global_step"] for row in run.rows if "a" in row] == [0, 1, 2, 3]
    assert [row["%5Fb"] for row in run.rows if "%5Fb" in row] == [5]
    [image] = [row["im"]["path"] for row in run.rows if "im" in row]
    [table] = [row["pr_table"]["path"] for row in run.rows if "pr_table" in row]
    assert run.files[image] == png()
    assert json.loads(run.files[table])["data"] == [[1.0, 0.5], [0.1, 1.0]]
    assert run.files["m/a.pt"] == b"exact"
    assert json.loads(run.events["", 0])["system.gpu.0.gpu"] == 50
    assert json.loads(run.events["", 0])["_timestamp"] == NOW / SECOND
    assert (run.exit_code, run.display_name, run.project, run.group) == (
        1,
        "a name",
        "a project",
        "an experiment",
    )
    assert sorted(run.tags) == ["new", "team:vision"]
    assert run.config["lr"]["value"] == 0.5
    assert run.config["tracelet"]["value"]["names"] == {"metrics": {"%5Fb": "_b"}}


def test_online_nothing_twice(online: Callable[[], WandbTracker], server: WandbServer) -> None:
    for count in (2, 4):
        tracker = online()
        tracker.open_run(info() if count == 2 else RunInfo("run-1", project="a project"))
        for _ in range(2):
            given = [float(i) for i in range(count)]
            assert (
                tracker.write_points("run-1", [series("a.b", given), series("_", given)]).accepted
                == 2 * count
            )
            tracker.write_record(record("image", png(), "im", mime_type="image/png"))
        tracker.close_run("run-1", "finished")
    rows = server.runs["run-1"].rows
    assert [row["a.b"] for row in rows if "a.b" in row] == [0, 1, 2, 3]
    assert [row["%5F"] for row in rows if "%5F" in row] == [0, 1, 2, 3]
    assert len([row for row in rows if "im" in row]) == 1
    assert server.runs["run-1"].display_name == "a name"
    assert server.runs["run-1"].config["tracelet"]["value"]["names"] == {"metrics": {"%5F": "_"}}
    assert sorted(server.runs["run-1"].tags) == ["new", "team:vision"]


def test_a_server_that_is_away_is_waited_for(
    online: Callable[[], WandbTracker], server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "FINISH_SECONDS", 0.5)
    tracker = online()
    server.down.set()
    with pytest.raises(TransientError):
        tracker.open_run(info())
    server.down.clear()
    tracker.open_run(info())
    server.down.set()
    assert tracker.write_points("run-1", [series("a", [1.0])]).accepted == 1
    with pytest.raises(TransientError, match="wandb sync"):
        tracker.close_run("run-1", "finished")
    server.down.clear()
    monkeypatch.setattr(tracker_module, "FINISH_SECONDS", 60.0)
    tracker.close_run("run-1", "finished")
    assert [row["a"] for row in server.runs["run-1"].rows] == [1]
    assert server.runs["run-1"].exit_code == 0


def test_online_close_leaves_an_open_run_running(
    online: Callable[[], WandbTracker], server: WandbServer
) -> None:
    tracker = online()
    tracker.open_run(info())
    tracker.write_points("run-1", [series("a", [1.0])])
    tracker.close()
    assert [row["a"] for row in server.runs["run-1"].rows] == [1]
    assert server.runs["run-1"].exit_code is None


def test_a_run_that_does_not_open_holds_up_no_other(
    online: Callable[[], WandbTracker], server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_settings, "INIT_SECONDS", 1.0)
    tracker = online()
    tracker.open_run(info())
    server.stuck.add("other")
    with pytest.raises(TransientError):
        tracker.open_run(RunInfo("other"))
    tracker.write_points("run-1", [series("a", [1.0])])
    server.stuck.clear()
    tracker.open_run(RunInfo("other"))
    tracker.write_points("other", [Series("other", "b", [Point(1, 2.0, NOW)])])
    tracker.close_run("run-1", "finished")
    tracker.close_run("other", "killed")
    assert [row["a"] for row in server.runs["run-1"].rows] == [1]
    assert [row["b"] for row in server.runs["other"].rows] == [2]
    assert server.runs["other"].exit_code == 255


def test_ranks_share_one_online_run(
    online: Callable[[], WandbTracker], server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    trackers: list[WandbTracker] = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        trackers.append(online())
        trackers[rank].open_run(info())
        trackers[rank].write_points("run-1", [series("a", [float(rank), 2.0], rank=rank)])
    trackers[1].close()
    assert server.runs["run-1"].exit_code is None
    trackers[0].close_run("run-1", "finished")
    rows = server.runs["run-1"].rows
    assert [row["a"] for row in rows if "a" in row] == [0, 2]
    assert [row["a/rank_1"] for row in rows if "a/rank_1" in row] == [1, 2]
    assert server.runs["run-1"].exit_code == 0


def test_offline_parts_of_a_run_sync_to_one(
    make: Callable[[], WandbTracker], subject: WandbSubject, server: WandbServer
) -> None:
    given = [0.1, math.nan, 2.0, -0.0]
    for count in (2, 4):
        tracker = make()
        tracker.open_run(info())
        tracker.write_points("run-1", [series("a", given[:count])])
        tracker.close_run("run-1", "finished")
        tracker.close()
    command = [str(Path(sys.executable).with_name("wandb")), "sync"]
    for log in subject.logs("run-1"):
        done = subprocess.run(
            [*command, str(log.parent)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
    rows = server.runs["run-1"].rows
    assert [row["_step"] for row in rows] == [0, 1, 2, 3]
    assert [row["global_step"] for row in rows] == [0, 1, 2, 3]
    assert repr([float(row["a"]) for row in rows[:3]]) == repr(given[:3])
