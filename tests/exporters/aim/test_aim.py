"""The tracker against the real AIM: its own repository, `aim server` and `aim up`."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
import warnings
import wave
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.aim_subject import AimSubject, empty_repository, make_subject
from tests.support.subject import StoredPoint
from tracelet_otel import semconv
from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series, SystemPoint
from tracelet_otel_exporters.aim import local_store
from tracelet_otel_exporters.aim.runs import run_hash
from tracelet_otel_exporters.aim.tracker import AimTracker

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # AIM's models use what SQLAlchemy deprecates; here warnings are errors
    import aim as _aim

aim: Any = _aim

NOW = 1_700_000_000_123_456_000
RUN = "a run"
TINY: dict[str, Any] = {"system_tracking_interval": None, "capture_terminal_logs": False}


class Server:
    """`aim server` or `aim up` on a free port of this machine."""

    def __init__(self, command: str, folder: Path, health: str) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.folder = folder
        self.command = command
        self.health = f"http://127.0.0.1:{self.port}{health}"
        self.log = folder / f"{command}.log"
        self.start()

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("aim")), self.command, "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--repo", str(self.folder), "--yes"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(self.health, timeout=1):
                return
            time.sleep(0.05)
        self.kill()
        pytest.fail(f"aim {self.command} did not start:\n{self.log.read_text()}")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # uvicorn too
        self.process.wait()


@pytest.fixture
def local(tmp_path: Path) -> AimSubject:
    subject = make_subject(tmp_path)
    shutil.copytree(empty_repository(), subject.folder / ".aim")
    return subject


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server") / "repository"
    shutil.copytree(empty_repository(), folder / ".aim")
    running = Server("server", folder, "/status/")
    yield running
    running.kill()


@pytest.fixture
def remote(server: Server) -> AimSubject:
    return AimSubject(server.folder.parent, f"aim://127.0.0.1:{server.port}")


@pytest.fixture(params=["local", "remote"])
def subject(request: pytest.FixtureRequest) -> AimSubject:
    return request.getfixturevalue(request.param)


@pytest.fixture
def new_tracker() -> Iterator[Callable[[AimSubject], AimTracker]]:
    made: list[AimTracker] = []

    def make(subject: AimSubject) -> AimTracker:
        made.append(subject.make())
        made[-1].load()
        made[-1].connect()
        return made[-1]

    yield make
    for tracker in made:
        tracker.close()


class Opened:
    """A run of a new id in one of the two repositories."""

    def __init__(self, subject: AimSubject, tracker: AimTracker, run_id: str) -> None:
        self.subject = subject
        self.tracker = tracker
        self.id = run_id
        self.info = RunInfo(run_id, "a name", "project", "experiment", {"team": "vision", "lone": ""})
        self.url = tracker.open_run(self.info)

    def points(self, points: list[tuple[int, float]], tag: str = "tag", rank: int | None = None) -> Any:
        made = [Point(step, value, NOW + number * 1_000_000) for number, (step, value) in enumerate(points)]
        return self.tracker.write_points(self.id, [Series(self.id, tag, made, rank)])

    def write(self, kind: Any, payload: bytes | None, tag: str = "tag", step: int = 3, **more: Any) -> Any:
        attributes = more.pop("attributes", {})
        time_ns = more.pop("time_unix_nano", NOW)
        return self.tracker.write_record(
            Record(self.id, kind, tag, step, time_ns, attributes, payload=payload, **more)
        )

    def write_json(self, kind: Any, value: object, **more: Any) -> Any:
        return self.write(kind, json.dumps(value).encode(), mime_type="application/json", **more)

    def media(self) -> list[tuple[str, str, int, bytes]]:
        return [(one.kind, one.tag, one.step, one.content) for one in self.subject.media(self.id)]


@pytest.fixture
def opened(
    subject: AimSubject, new_tracker: Callable[[AimSubject], AimTracker], request: pytest.FixtureRequest
) -> Opened:
    return Opened(subject, new_tracker(subject), f"run of {request.node.name}")


@pytest.fixture
def opened_locally(local: AimSubject, new_tracker: Callable[[AimSubject], AimTracker]) -> Opened:
    return Opened(local, new_tracker(local), RUN)


def png(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), color).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def gif() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(200))
    return buffer.getvalue()


# -- points -------------------------------------------------------------------------------------------


def test_points_keep_value_step_and_microsecond(opened: Opened) -> None:
    values = [0.1, -0.0, 1e-320, 0.30000000000000004, 1e308, 7.0]
    points = [Point(step, value, NOW + step * 1_000) for step, value in enumerate(values)]
    outcome = opened.tracker.write_points(opened.id, [Series(opened.id, "train/loss", points)])
    assert (outcome.accepted, outcome.lossy, outcome.rejected, outcome.aside) == (6, [], [], [])
    assert opened.subject.points(opened.id) == {"train/loss": [StoredPoint(*point) for point in points]}


def test_a_long_batch_arrives_in_one_call(opened: Opened) -> None:
    """As one message it would keep AIM's server busy for longer than an answer is waited for."""
    assert opened.points([(step, step / 7) for step in range(6000)]).accepted == 6000
    stored = opened.subject.points(opened.id)["tag"]
    assert [(point.step, point.value) for point in stored] == [(step, step / 7) for step in range(6000)]


def test_nan_infinity_and_any_step(opened: Opened) -> None:
    steps = [5, 3, 0, -7, 2**53 - 1]
    values = [math.nan, math.inf, -math.inf, 1.0, 2.0]
    assert opened.points(list(zip(steps, values, strict=True))).accepted == 5
    stored = {point.step: point.value for point in opened.subject.points(opened.id)["tag"]}
    assert math.isnan(stored.pop(5))
    assert stored == {3: math.inf, 0: -math.inf, -7: 1.0, 2**53 - 1: 2.0}


def test_a_step_that_aim_cannot_tell_apart_goes_aside_and_one_out_of_range_is_refused(opened: Opened) -> None:
    outcome = opened.points([(1, 1.0), (1, 2.0), (2**53, 3.0), (2**63, 4.0)])
    assert outcome.accepted == 3
    assert [(aside.point.step, aside.point.value) for aside in outcome.aside] == [(1, 2.0), (2**53, 3.0)]
    assert len(outcome.rejected) == 1
    assert [tuple(point)[:2] for point in opened.subject.points(opened.id)["tag"]] == [(1, 1.0)]


def test_what_goes_aside_does_so_again_after_an_index_that_failed(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened.tracker._runs[opened.id].store
    index, failures = store.index, [TransientError("the disk is full")]

    def fail_once(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        index(*arguments)

    monkeypatch.setattr(store, "index", fail_once)
    opened.tracker._runs[opened.id].indexed = -1e9
    points = [(1, 1.0), (1, 2.0)]
    with pytest.raises(TransientError):
        opened.points(points)
    assert [aside.point.value for aside in opened.points(points).aside] == [2.0]
    assert opened.points(points).aside == []


def test_ranks_and_odd_names(opened: Opened) -> None:
    names = ["a/b c", "ä" * 300, "", "\ud800", "\\ud800", "_", "__system__cpu", "system__cpu"]
    for number, name in enumerate(names):
        opened.points([(0, float(number))], name)
    same_time = opened.points([(0, 10.0)], "a/b c", 0)
    assert [aside.point.value for aside in same_time.aside] == [10.0]
    outcome = opened.points([(0, 11.0)], "a/b c", 2)
    assert (outcome.accepted, outcome.aside) == (1, [])
    stored = opened.subject.points(opened.id)
    assert stored["a/b c"][0].value == 0.0
    assert stored["a/b c/rank_2"][0].value == 11.0
    assert stored["ä" * 300][0].value == 1.0
    traces = opened.subject._traces(opened.id, "float")
    assert len(traces) == len(names) + 1  # no two became one


def test_the_same_again_changes_nothing(opened: Opened, new_tracker: Callable[..., AimTracker]) -> None:
    points = [(3, 1.0), (1, 2.0), (3, 5.0), (2, math.nan)]
    first = opened.points(points)
    opened.write("text", b"hello", "text", 4)
    before = everything(opened.subject, opened.id)
    again = opened.points(points)
    opened.write("text", b"hello", "text", 4)
    assert (first.accepted, len(first.aside)) == (4, 1)
    assert (again.accepted, again.aside) == (4, [])
    assert everything(opened.subject, opened.id) == before
    opened.tracker.close_run(opened.id, "finished")
    opened.tracker.close()
    resumed = Opened(opened.subject, new_tracker(opened.subject), opened.id)
    third = resumed.points(points)
    assert (third.accepted, len(third.aside)) == (4, 1)
    resumed.points([(9, 9.0)])
    stored = opened.subject.points(opened.id)["tag"]
    assert [point.step for point in stored] == [1, 2, 3, 9]
    assert stored[2].value == 1.0


def everything(subject: AimSubject, run_id: str) -> dict[bytes, bytes]:
    """Every key and value of a run, but for what says when it was looked at."""
    hash_ = run_hash(run_id)
    content: dict[bytes, bytes] = {}
    repo = aim.Repo(str(subject.folder))
    for tree in ("meta", "seqs"):
        container: Any = repo.request_container(tree, hash_, read_only=True, skip_read_optimization=True)
        for key, value in container.items():
            content[key] = value if isinstance(value, bytes) else value.load()
    return content


@pytest.mark.parametrize("kind", ["new", "after integers"])
def test_bookkeeping_is_that_of_aim_itself(
    local: AimSubject, kind: str, new_tracker: Callable[..., AimTracker]
) -> None:
    rows = [(4, 1.5), (2, -3.0), (9, math.nan), (9, 8.0), (10, 0.25), (7, math.inf), (-2, 4.0)]
    theirs = aim.Run(repo=str(local.folder), **TINY)
    ours = aim.Run(repo=str(local.folder), **TINY)
    if kind == "after integers":
        for run in (theirs, ours):
            run._tracker._track(7, 1.0, "a/b", 0, context={})
    for step, value in rows:
        if (step, value) == (9, 8.0):
            continue  # a second value of a step, which ours puts aside
        theirs._tracker._track(value, (NOW // 1000 + step) / 1e6, "a/b", step, context={})
        theirs._tracker._track(value, (NOW // 1000 + step) / 1e6, "a/b", step, context={"rank": 1})
    hashes = (theirs.hash, ours.hash)
    theirs.close()
    ours.close()
    run = theirs = ours = None
    gc.collect()  # only then AIM lets go of a run's files
    tracker = new_tracker(local)
    tracker.open_run(RunInfo(hashes[1]))
    for part in (rows[:3], rows[3:]):
        points = [Point(step, value, NOW + step * 1000) for step, value in part]
        tracker.write_points(hashes[1], [Series(hashes[1], "a/b", points, rank) for rank in (0, 1)])
    tracker.close_run(hashes[1], "finished")

    def content(hash_: str) -> dict[bytes, bytes]:
        found = everything(local, hash_)
        return {
            key.replace(hash_.encode(), b"HASH"): value
            for key, value in found.items()
            if b"attrs" not in key and b"end_time" not in key
        }

    assert content(hashes[1]) == content(hashes[0])
    assert len(content(hashes[0])) > 50


# -- runs ---------------------------------------------------------------------------------------------


def test_description_tags_and_status(opened: Opened, new_tracker: Callable[..., AimTracker]) -> None:
    subject = opened.subject
    assert run_hash(opened.id) in opened.url
    expected = {"name": "a name", "project": "project", "experiment": "experiment"}
    assert subject.description(opened.id) == expected
    assert subject.tags(opened.id) == {"team": "vision", "lone": ""}
    assert sorted(subject._props(opened.id).tags) == ["lone", "team:vision"]
    assert subject.status(opened.id) == "running"
    opened.write_json("tags", {"team": "speech", "new": "x:y"})
    assert subject.tags(opened.id) == {"team": "speech", "lone": "", "new": "x:y"}
    assert sorted(subject._props(opened.id).tags) == ["lone", "new:x:y", "team:speech"]
    for status in ("failed", "killed", "finished"):
        opened.tracker.close_run(opened.id, status)
        assert subject.status(opened.id) == status
        opened.tracker.open_run(RunInfo(opened.id))
        assert subject.status(opened.id) == "running"
    assert subject.description(opened.id) == expected


def test_a_hash_of_aims_form_is_the_runs(local: AimSubject, new_tracker: Callable[..., AimTracker]) -> None:
    tracker = new_tracker(local)
    for run_id in ("0123456789abcdef01234567", "0" * 32):
        assert run_hash(run_id) == run_id
        tracker.open_run(RunInfo(run_id))
    assert set(aim.Repo(str(local.folder)).list_all_runs()) == {"0123456789abcdef01234567", "0" * 32}
    assert run_hash("../x") == run_hash("../x") != run_hash("../y")
    assert len(run_hash("../x")) == 24


def test_params_are_merged_and_of_any_json(opened: Opened) -> None:
    opened.write_json("params", {"lr": 0.1, "model": {"width": 3, "none": None}, "list": [1, {"a": [True]}]})
    outcome = opened.write_json("params", {"lr": 0.2, "model": {"depth": 2}, "": "x", "big": 2**70, "e": {}})
    assert [problem.name for problem in outcome.lossy] == ["big"]
    run = opened.subject._run(opened.id)
    params = {name: value for name, value in run[...].items() if name != "tracelet_run"}
    assert params == {
        "lr": 0.2,
        "model": {"width": 3, "none": None, "depth": 2},
        "list": [1, {"a": [True]}],
        "_": "x",
        "big": str(2**70),
        "e": {},
    }


def test_queries_find_the_run_while_it_is_open_and_after(opened: Opened) -> None:
    folder = str(opened.subject.folder)
    found = aim.Repo(folder).query_runs(f'run.tracelet_run.run_id == "{opened.id}"', report_mode=0)
    assert [one.run.hash for one in found.iter_runs()] == [run_hash(opened.id)]
    opened.points([(1, 2.0)], "some/metric")
    opened.tracker.close_run(opened.id, "failed")
    query = f'metric.name == "some/metric" and run.hash == "{run_hash(opened.id)}"'
    metrics = list(aim.Repo(folder).query_metrics(query, report_mode=0))
    assert [metric.values.values_list() for metric in metrics] == [[2.0]]
    assert metrics[0].run.end_time > 0
    assert metrics[0].run["tracelet_run", "status"] == "failed"


# -- records ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "content", "mime_type"),
    [
        ("image", png(), "image/png"),
        ("figure", png("blue"), "image/png"),
        ("video", gif(), "image/gif"),
        ("audio", wav(), "audio/wav"),
        ("text", "hé\n**x**".encode(), "text/markdown"),
    ],
)
def test_media_keep_their_exact_bytes(opened: Opened, kind: Any, content: bytes, mime_type: str) -> None:
    opened.points([(3, 1.0)], "shared/tag")
    for attributes in ({}, {semconv.RANK: 1}, {semconv.INDEX: 2}):
        outcome = opened.write(kind, content, "shared/tag", mime_type=mime_type, attributes=attributes)
        assert (outcome.accepted, outcome.aside, outcome.rejected) == (1, [], [])
    stored = opened.media()
    assert [one[1:] for one in stored] == [("shared/tag", 3, content)] * 3
    assert opened.subject.points(opened.id)["shared/tag"][0].value == 1.0
    second = opened.write(kind, content, "shared/tag", mime_type=mime_type, time_unix_nano=NOW + 10_000)
    assert len(second.aside) == 1
    assert len(opened.media()) == 3


def test_media_are_shown_by_aim_itself(opened_locally: Opened) -> None:
    opened_locally.write("image", png(), "picture", mime_type="image/png")
    opened_locally.write("audio", wav(), "sound", mime_type="audio/wav")
    opened_locally.write("text", b"words", "text", mime_type="text/plain")
    curve = {"precision": [1.0, 0.5], "recall": [0.0, 1.0], "thresholds": [0, 1]}
    opened_locally.write_json("pr_curve", curve, tag="curve")
    opened_locally.tracker.close_run(RUN, "finished")
    repo = aim.Repo(str(opened_locally.subject.folder))
    [image] = repo.query_images("", report_mode=0)
    assert image.values.values_list()[0].to_pil_image().getpixel((0, 0)) == (255, 0, 0)
    assert image.values.values_list()[0].json()["width"] == 40
    assert [round(at * 1e6) for at in image.timestamps.values_list()] == [NOW // 1000]
    [audio] = repo.query_audios("", report_mode=0)
    assert audio.values.values_list()[0].to_numpy()[0] == 8000
    [text] = repo.query_texts("", report_mode=0)
    assert text.values.values_list()[0].data == "words"
    run = repo.get_run(run_hash(RUN))
    [(name, context, _)] = list(run.iter_sequence_info_by_type(("aim.figure",)))
    [figure] = run.get_figure_sequence(name, context).values.values_list()
    assert json.loads(figure.data)["data"][0]["y"] == [1.0, 0.5]


def test_histograms(opened: Opened) -> None:
    uniform = {"min": 0.0, "max": 3.0, "num": 6, "bucket_limits": [1, 2, 3], "bucket_counts": [1, 2, 3]}
    wide = {"min": -1, "max": 7, "num": 8, "bucket_limits": [0.0, 1e308], "bucket_counts": [2, 6]}
    nothing = {"min": 0, "max": 0, "num": 0, "bucket_limits": [], "bucket_counts": []}
    for number, value in enumerate((uniform, wide, nothing)):
        outcome = opened.write_json("histogram", value, tag=str(number))
        assert outcome.accepted == 1
        assert outcome.aside[0].record.payload == json.dumps(value).encode()
    stored = {tag: json.loads(content) for _, tag, _, content in opened.media()}
    assert stored["0"] == {"weights": [1, 2, 3], "edges": [0, 1, 2, 3]}
    assert sum(stored["1"]["weights"]) == pytest.approx(8)
    assert sum(stored["1"]["weights"][:8]) == pytest.approx(2)
    assert set(stored) == {"0", "1"}


def test_files_of_every_other_kind(opened: Opened, tmp_path: Path) -> None:
    blob = bytes(range(256))
    opened.write("video", blob, "v", mime_type="video/mp4")
    opened.write("audio", blob, "a", mime_type="audio/ogg")
    opened.write("image", blob, "i", mime_type="image/svg+xml")
    opened.write("mesh", blob, "m", mime_type="application/x-npz", attributes={semconv.MESH_CONFIG: "{}"})
    opened.write("embedding", blob, "e", attributes={semconv.FILE_NAME: "tensors.tsv"})
    opened.write("graph", blob, "")
    opened.write("layout", b"{}", "")
    opened.write("artifact", blob, "", attributes={semconv.FILE_NAME: "../a:b/ü?.bin"})
    opened.write("artifact", None, "", attributes={semconv.CHECKPOINT_PATH: "/x/last.ckpt"})
    path = tmp_path / "some"
    for content in (b"old", blob):
        path.write_bytes(content)
        opened.tracker.write_file(opened.id, "tracelet/companion-1.jsonl", path)
    files = opened.subject.files(opened.id)
    about = files.pop("checkpoints/last.ckpt.json")
    assert json.loads(about)["path"] == "/x/last.ckpt"
    assert files.pop(f"mesh/m/3-{NOW}.json") == b"{}"
    assert files.pop("tensorboard/custom_scalars.json") == b"{}"
    assert files == {
        f"video/v/3-{NOW}.mp4": blob,
        f"audio/a/3-{NOW}.ogg": blob,
        f"image/i/3-{NOW}.svg": blob,
        f"mesh/m/3-{NOW}.npz": blob,
        "embedding/e/3/tensors.tsv": blob,
        "tensorboard/graph.pb": blob,
        "../a:b/ü?.bin": blob,
        "tracelet/companion-1.jsonl": blob,
    }


def test_artifacts_are_aims_own_and_stay_in_the_repository(opened_locally: Opened, tmp_path: Path) -> None:
    opened_locally.write("artifact", b"abc", "", attributes={semconv.FILE_NAME: "../../out.bin"})
    opened_locally.tracker.close_run(RUN, "finished")
    run = aim.Repo(str(opened_locally.subject.folder)).get_run(run_hash(RUN))
    [artifact] = run.artifacts.values()
    downloaded = Path(artifact.download(str(tmp_path / "download")))
    assert downloaded.read_bytes() == b"abc"
    stored = opened_locally.subject.folder / ".aim" / "artifacts" / run_hash(RUN)
    assert stored in Path(artifact.uri.removeprefix("file://")).parents


def test_an_artifacts_folder_of_ones_own(remote: AimSubject, tmp_path: Path) -> None:
    tracker = AimTracker(remote.location, artifacts_uri=(tmp_path / "store").as_uri())
    tracker.load()
    tracker.connect()
    tracker.open_run(RunInfo("artifacts"))
    (tmp_path / "file").write_bytes(b"abc")
    tracker.write_file("artifacts", "name", tmp_path / "file")
    tracker.close()
    assert (tmp_path / "store" / run_hash("artifacts") / "name").read_bytes() == b"abc"
    assert remote.files("artifacts") == {"name": b"abc"}


def test_a_bad_record_is_refused_alone(opened: Opened) -> None:
    assert opened.write("params", b"[1]").rejected
    assert opened.write("histogram", b"no json").rejected
    assert opened.write("artifact", None, uri="/nowhere/at/all").rejected
    assert opened.write("unheard of", b"").rejected
    assert opened.points([(1, 1.0)]).accepted == 1


def test_environment(opened: Opened) -> None:
    record = {
        "git": {"commit": "abc", "branch": "main", "repository": "https://x/y", "dirty": True},
        "python": {"version": "3.11", "executable": "/bin/python"},
        "packages": {"torch": "2.0"},
        "command": ["train.py", "--x"],
        "host": {"name": "node", "cpu_count": 4},
        "variables": {"A": "b"},
    }
    opened.write_json("environment", record)
    run = opened.subject._run(opened.id)
    assert run["__system_params"] == {
        "packages": {"torch": "2.0"},
        "env_variables": {"A": "b"},
        "git_info": {
            "branch": "main",
            "remote_origin_url": "https://x/y",
            "commit": {"hash": "abc", "timestamp": None, "author": None},
        },
        "executable": "/bin/python",
        "arguments": ["train.py", "--x"],
    }
    assert json.loads(opened.subject.files(opened.id)["tracelet/environment.json"]) == record
    rest = {"git": {"dirty": True}, "python": {"version": "3.11"}, "host": record["host"]}
    assert run["tracelet_run", "environment"] == rest


def test_system(opened: Opened) -> None:
    def collected(at: int) -> list[SystemPoint]:
        return [
            SystemPoint("system.cpu.utilization", {"cpu": 1, "state": "user"}, 0.5, at),
            SystemPoint("system.cpu.utilization", {"cpu": 2, "state": "idle"}, 1.0, at),
            SystemPoint("process.cpu.utilization", {}, 1.5, at),
            SystemPoint("system.memory.utilization", {"state": "used"}, 0.25, at),
            SystemPoint("hw.gpu.utilization", {"hw.id": "1", "hw.name": "H100"}, 0.75, at),
            SystemPoint("hw.power", {"hw.id": "1", "hw.type": "gpu"}, 300.0, at),
            SystemPoint("system.network.io", {"device": "eth0", "direction": "receive"}, 9.0, at),
            SystemPoint("x.y", {"z": 1}, 3.0, at),
        ]

    for at in (NOW, NOW + 10**9, NOW + 10**9):  # the last one is a retry
        assert opened.tracker.write_system(opened.id, collected(at)).accepted == 8
    assert opened.subject.system(opened.id) == {
        "__system__cpu_percent": [25.0, 25.0],
        "__system__cpu_percent cpu=0": [50.0, 50.0],
        "__system__cpu_percent cpu=1": [0.0, 0.0],
        "__system__cpu": [150.0, 150.0],
        "__system__memory_percent": [25.0, 25.0],
        "__system__gpu gpu=1": [75.0, 75.0],
        "__system__gpu_power_watts gpu=1": [300.0, 300.0],
        "__system__network_received_bytes": [9.0, 9.0],
        "__system__x.y attributes=z=1": [3.0, 3.0],
    }


# -- several writers ----------------------------------------------------------------------------------

WRITER = """
import sys, tracelet_otel
from tracelet_otel.otlp.records import *
from tracelet_otel_exporters.aim.tracker import AimTracker
repo, rank = sys.argv[1], int(sys.argv[2])
tracker = AimTracker(repo)
tracker.load(); tracker.connect()
tracker.open_run(RunInfo("shared", "name", "project"))
print("open", flush=True)
for number in range(10):
    points = [Point(number * 10 + i, float(rank), 10**18 + i * 1000) for i in range(10)]
    tracker.write_points("shared", [Series("shared", "loss", points, rank)])
if rank == 9:
    print("ready", flush=True); sys.stdin.read()
tracker.close_run("shared", "finished")
tracker.close()
"""


def process(code: str, *arguments: object, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)


@pytest.mark.slow
def test_several_processes_write_one_run(subject: AimSubject) -> None:
    processes = [process(WRITER, subject.location, rank) for rank in (0, 1, 2)]
    try:
        for one in processes:
            one.communicate(timeout=60)
    finally:
        for one in processes:
            one.kill()
    assert [one.returncode for one in processes] == [0, 0, 0]
    stored = subject.points("shared")
    assert {name: len(points) for name, points in stored.items()} == {
        "loss": 100,
        "loss/rank_1": 100,
        "loss/rank_2": 100,
    }
    assert {point.value for point in stored["loss/rank_2"]} == {2.0}
    assert subject.status("shared") == "finished"


def test_a_killed_process_blocks_nobody(local: AimSubject, new_tracker: Callable[..., AimTracker]) -> None:
    killed = process(WRITER, local.location, 9)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "open\n"
    assert killed.stdout.readline() == "ready\n"
    killed.kill()
    killed.communicate()
    assert list((local.folder / ".aim" / "locks").glob("*.softlock"))  # it had the run
    started = time.monotonic()
    resumed = Opened(local, new_tracker(local), "shared")
    resumed.points([(1000, 5.0)], "loss", 9)
    assert time.monotonic() - started < 5
    assert len(local.points("shared")["loss/rank_9"]) == 101


def test_a_run_that_a_user_holds_is_a_transient_error(
    local: AimSubject, new_tracker: Callable[..., AimTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracelet_otel_exporters.aim.local_store.WAIT_SECONDS", 0.2)
    users = aim.Run(repo=str(local.folder), **TINY)
    tracker = new_tracker(local)
    with pytest.raises(TransientError, match=users.hash):
        tracker.open_run(RunInfo(users.hash))
    users.track(1.0, name="theirs", step=0)
    hash_ = users.hash
    users.close()
    del users
    gc.collect()  # only then AIM lets go of a run's files
    tracker.open_run(RunInfo(hash_))
    tracker.write_points(hash_, [Series(hash_, "ours", [Point(0, 2.0, NOW)])])
    assert set(local.points(hash_)) == {"ours", "theirs"}


def test_the_users_own_run_works_beside_ours(opened_locally: Opened) -> None:
    folder = opened_locally.subject.folder
    users = aim.Run(repo=str(folder), experiment="mine", **TINY)
    users["hparams"] = {"lr": 1}
    for step in range(3):
        users.track(float(step), name="loss", step=step)
        opened_locally.points([(step, float(step))])
    opened_locally.tracker.close_run(RUN, "finished")
    opened_locally.tracker.close()
    users.track(3.0, name="loss", step=3)
    users.name = "still mine"
    hash_ = users.hash
    users.close()
    assert [point.value for point in opened_locally.subject.points(hash_)["loss"]] == [0.0, 1.0, 2.0, 3.0]
    assert len(opened_locally.subject.points(RUN)["tag"]) == 3
    assert aim.Repo(str(folder)).request_props(hash_, read_only=True).name == "still mine"


def test_several_runs_at_once(opened: Opened) -> None:
    other = Opened(opened.subject, opened.tracker, f"other {opened.id}")
    opened.points([(1, 1.0)])
    other.points([(1, 2.0)])
    opened.tracker.close_run(opened.id, "failed")
    other.points([(2, 3.0)])
    assert [point.value for point in opened.subject.points(other.id)["tag"]] == [2.0, 3.0]
    assert (opened.subject.status(opened.id), opened.subject.status(other.id)) == ("failed", "running")


# -- the process --------------------------------------------------------------------------------------

UNDISTURBED = """
import json, logging, signal, sys, threading
def state():
    handlers = [str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGINT)]
    root = logging.getLogger()
    return [handlers, sys.excepthook.__qualname__, type(sys.stdout).__name__, id(sys.stdout), id(sys.stderr),
            sys.argv, len(root.handlers), root.level, [t.name for t in threading.enumerate()],
            AutoClean._registered_with_atexit, len(AutoClean._finalizers)]
import tracelet_otel
from tracelet_otel.otlp.records import *
from tracelet_otel_exporters.aim.tracker import AimTracker
assert "aim" not in sys.modules
logging.getLogger("mine").info("x")
import aim  # what its import does is the user's or ours to bear; what comes after is looked at
from aim.ext.cleanup import AutoClean
before = state()
tracker = AimTracker(sys.argv[1])
tracker.load(); tracker.connect()
tracker.open_run(RunInfo("x"))
tracker.write_points("x", [Series("x", "t", [Point(1, 1.0, 10**18)])])
tracker.close_run("x", "finished")
tracker.close()
after = state()
print(json.dumps([before, after, logging.getLogger("mine").disabled]))
"""


def test_the_process_is_left_as_it_was(subject: AimSubject) -> None:
    one = process(UNDISTURBED, subject.location, stderr=subprocess.PIPE)
    output, errors = one.communicate(timeout=60)
    assert one.returncode == 0, errors
    before, after, disabled = json.loads(output)
    assert after == before
    assert (disabled, errors) == (False, "")


def test_a_new_repository_is_made_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    subject = make_subject(tmp_path)
    tracker = subject.make()
    tracker.load()
    tracker.open_run(RunInfo(RUN))
    tracker.close()
    assert capfd.readouterr() == ("", "")
    assert subject.status(RUN) == "running"
    assert aim.Repo.check_repo_status(str(subject.folder)).name == "UPDATED"


def test_a_new_repository_is_never_half_made(tmp_path: Path) -> None:
    """An ``aim.Run`` of the script that comes at that moment must find none, or a whole one."""
    subject = make_subject(tmp_path)
    tracker = subject.make()
    seen: set[str] = set()
    making = threading.Thread(target=tracker.load)
    making.start()
    while making.is_alive():
        seen.add(aim.Repo.check_repo_status(str(subject.folder)).name)
    making.join()
    tracker.close()
    assert seen | {aim.Repo.check_repo_status(str(subject.folder)).name} == {"MISSING", "UPDATED"}
    assert [path.name for path in subject.folder.iterdir()] == [".aim"]


def test_a_repository_that_a_script_is_making_is_left_to_it(tmp_path: Path) -> None:
    subject = make_subject(tmp_path)
    (subject.folder / ".aim").mkdir()  # how AIM begins
    tracker = subject.make()

    def load() -> None:
        while True:
            try:
                return tracker.load()
            except TransientError:  # the machine is slow
                continue

    making = threading.Thread(target=load)
    making.start()
    making.join(1)
    assert list((subject.folder / ".aim").iterdir()) == []
    aim.Repo(str(subject.folder), init=True)
    making.join()
    tracker.open_run(RunInfo(RUN))
    tracker.close()
    assert subject.status(RUN) == "running"


@pytest.mark.parametrize("repo", [None, "..", "../.aim/", "~/project", "~/project/.aim"])
def test_a_repository_is_found_from_the_folder_that_was_current(
    repo: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(empty_repository(), tmp_path / "project" / ".aim")
    (tmp_path / "project" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "project" / "below")
    tracker = AimTracker(repo)
    monkeypatch.chdir(tmp_path)
    tracker.load()
    tracker.open_run(RunInfo("0123456789ab"))
    tracker.close()
    assert (tmp_path / "project" / ".aim" / "meta" / "chunks" / "0123456789ab").is_dir()
    assert not (tmp_path / ".aim").exists()


def test_options_are_checked_at_construction() -> None:
    with pytest.raises(TypeError):
        AimTracker(5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError):
        AimTracker(artifacts_uri=5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PermanentError, match="ssh"):
        AimTracker("ssh://host/x").connect()


# -- a server that goes away --------------------------------------------------------------------------


def test_no_server_is_a_quick_transient_error(tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        tracker = AimTracker(f"aim://127.0.0.1:{taken.getsockname()[1]}")
        tracker.load()
        started = time.monotonic()
        with pytest.raises(TransientError):
            tracker.connect()
        assert time.monotonic() - started < 3
        tracker.close()


def test_a_server_that_answers_nothing_is_a_transient_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracelet_otel_exporters.aim.server.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("tracelet_otel_exporters.aim.server.ANSWER_SECONDS", 0.2)
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracker = AimTracker(f"aim://127.0.0.1:{silent.getsockname()[1]}")
        tracker.load()
        started = time.monotonic()
        with pytest.raises(TransientError):
            tracker.connect()
        assert time.monotonic() - started < 3
        tracker.close()


EXIT = """
import sys, tracelet_otel
from tracelet_otel.otlp.records import *
from tracelet_otel.foundation.errors import TransientError
from tracelet_otel_exporters.aim.tracker import AimTracker
tracker = AimTracker(sys.argv[1])
tracker.load(); tracker.connect()
tracker.open_run(RunInfo("exit"))
print("open", flush=True); sys.stdin.readline()
try:
    tracker.write_points("exit", [Series("exit", "t", [Point(1, 1.0, 10**18)])])
except TransientError:
    print("transient", flush=True)
"""


def test_a_dead_server_and_its_return(tmp_path: Path, new_tracker: Callable[..., AimTracker]) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(empty_repository(), folder / ".aim")
    server = Server("server", folder, "/status/")
    try:
        subject = AimSubject(tmp_path, f"aim://127.0.0.1:{server.port}")
        opened = Opened(subject, new_tracker(subject), RUN)
        opened.points([(1, 1.0)])
        exiting = process(EXIT, subject.location)
        assert exiting.stdout is not None
        assert exiting.stdout.readline() == "open\n"
        server.kill()
        started = time.monotonic()
        assert exiting.communicate("\n", timeout=20)[0] == "transient\n"
        assert time.monotonic() - started < 8
        assert exiting.returncode == 0
        started = time.monotonic()
        for _ in range(2):
            with pytest.raises(TransientError):
                opened.points([(2, 2.0)])
        assert time.monotonic() - started < 5
        server.start()
        assert opened.points([(1, 1.0), (2, 2.0)]).accepted == 2
        opened.tracker.close_run(RUN, "finished")
        assert [point.value for point in subject.points(RUN)["tag"]] == [1.0, 2.0]
        assert subject.status(RUN) == "finished"
    finally:
        server.kill()


# -- the user interface -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_user_interface_lists_the_run(local: AimSubject, new_tracker: Callable[..., AimTracker]) -> None:
    from aim.storage.treeutils import decode_tree

    interface = Server("up", local.folder, "/api/projects/")
    try:
        assert local_store.is_served(local.folder / ".aim")
        assert not local_store.is_served(local.folder.parent / ".aim")
        opened = Opened(local, new_tracker(local), RUN)
        opened.points([(1, 2.5), (2, math.nan), (3, math.inf)], "some/metric")

        def unpacked(content: bytes) -> Iterator[tuple[bytes, bytes]]:
            while content:
                sizes: list[bytes] = []
                for _ in range(2):
                    size = int.from_bytes(content[:4], "little")
                    sizes.append(content[4 : 4 + size])
                    content = content[4 + size :]
                yield sizes[0], sizes[1]

        def search() -> dict[str, Any]:
            query = urllib.request.quote('metric.name == "some/metric"')  # type: ignore[attr-defined]
            url = f"http://127.0.0.1:{interface.port}/api/runs/search/metric/?q={query}&p=100&report_progress=false"
            with urllib.request.urlopen(url, timeout=10) as response:
                found = response.read()
            return decode_tree(unpacked(found)) if found else {}

        def wait(ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            deadline = time.monotonic() + 25
            while time.monotonic() < deadline:
                found = search().get(run_hash(RUN), {})
                if found and ready(found):
                    return found
                time.sleep(0.2)
            pytest.fail(f"not listed: {interface.log.read_text()[-2000:]}")

        found = wait(lambda run: bool(run["traces"]))
        assert found["props"]["name"] == "a name"
        assert found["props"]["end_time"] is None
        [trace] = found["traces"]
        values = dict(zip(decoded(trace["iters"]), decoded(trace["values"]), strict=True))
        assert values[1.0] == 2.5
        opened.tracker.close_run(RUN, "failed")
        found = wait(lambda run: run["props"]["end_time"] is not None)
        assert found["params"]["tracelet_run"]["status"] == "failed"
        assert "failed" in [tag["name"] for tag in found["props"]["tags"]]
    finally:
        interface.kill()


def decoded(array: dict[str, Any]) -> list[float]:
    import numpy as np

    return np.frombuffer(array["blob"], dtype=array["dtype"]).tolist()
