"""What every tracker has to do, against the real thing: one test for all of them.

A tracker is here by a line in :data:`TRACKERS` and a subject that reads it back; see docs/add-a-tracker.md.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import math
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tests.support.contract_data import (
    NOW,
    SAMPLES,
    SECOND,
    STEPS,
    TAGS,
    TIMES,
    VALUES,
    Client,
    LoggedPoint,
    Request,
    Sample,
    Script,
    blobs,
    check_points,
    native_points,
    picture,
)
from tests.support.scripts import clean_environment
from tests.support.subject import Subject
from tracelet_otel.otlp.decoding import parse_metrics
from tracelet_otel.otlp.records import Record, RunInfo, SystemPoint
from tracelet_otel.semconv import ATTENDANTS, SEQUENCE, VALUE, Status

TRACKERS: Final = {
    "mlflow": "tracelet_otel_exporters.mlflow.tracker:MLflowTracker",
    "wandb": "tracelet_otel_exporters.wandb.tracker:WandbTracker",
    "aim": "tracelet_otel_exporters.aim.tracker:AimTracker",
    "clearml": "tracelet_otel_exporters.clearml.tracker:ClearMLTracker",
    "fifth": "tests.fifth_tracker.json_folder:JsonFolderTracker",
}
"""By the name of ``tests/support/<name>_subject.py``: the tracker's class."""
EXAMPLES: Final = {"mlflow": 12, "wandb": 6, "aim": 8, "clearml": 20, "fifth": 60}
"""Of the property test: as many as the tracker's speed allows."""
ROOT: Final = Path(__file__).resolve().parents[2]

# What the trackers' libraries do at their import and in their configuration's parser.
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:'[A-Za-z]+' .*deprecated.* use '[a-z_]+':DeprecationWarning"
    ),  # ClearML
    pytest.mark.filterwarnings("ignore:The ``declarative_base"),  # AIM: SQLAlchemy
]

NewClient = Callable[..., Client]


@pytest.fixture(scope="module", params=TRACKERS)
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[Subject]:
    """One empty backend for all tests of a tracker: each test has runs of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "mlflow":
        shutil.copy(empty_database, folder / "mlflow.db")
    made = importlib.import_module(f"tests.support.{request.param}_subject").make_subject(folder)
    with pytest.MonkeyPatch.context() as patch:
        # Nobody creates the same run at the same moment here.
        patch.setattr("tracelet_otel_exporters.clearml.runs.SETTLE_SECONDS", 0.0)
        yield made
    made.close()


@pytest.fixture
def new_client(subject: Subject, tmp_path: Path) -> Iterator[NewClient]:
    """Makes clients, as many processes would have one each, and closes them in the end."""
    made: list[Client] = []

    def make(run: RunInfo | None = None) -> Client:
        made.append(Client(subject, tmp_path, run))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def run_id() -> str:
    return f"run-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def resolution(subject: Subject) -> int:
    return subject.make().capabilities.time_resolution_ns


# -- the class and the process it is in -------------------------------------------------------------------

IN_A_PROCESS: Final = """
import argparse, builtins, importlib, inspect, json, logging, os, random, signal, socket, subprocess, sys
import threading, warnings
from pathlib import Path

module, name, subject, folder = sys.argv[1:]
tracker_class = getattr(importlib.import_module(module), name)
tracker = tracker_class()
library = tracker.library.partition(".")[0]
imported = library in sys.modules and library not in sys.stdlib_module_names
taken = []
options = inspect.signature(tracker_class).parameters
for wrong in [{"no_such_option": 1}, *({option: object()} for option in options)]:
    try:
        tracker_class(**wrong)
    except TypeError:
        continue
    taken.append(sorted(wrong))

import numpy
import psutil
from tests.support import contract_data as data

def state():
    hooks = (
        sys.stdin, sys.stdout, sys.stderr, sys.excepthook, sys.exit, sys.displayhook, sys.unraisablehook,
        threading.excepthook, builtins.print, builtins.input, builtins.open, warnings.showwarning, os._exit,
        os.fork, subprocess.Popen, subprocess.Popen.__init__, socket.socket, logging.root.handlers[:],
        logging.root.level, logging.raiseExceptions, sys.argv[:], sys.path[:], os.getcwd(), Path.home(),
    )
    classes = (argparse.ArgumentParser, argparse._ActionsContainer, threading.Thread)
    return {
        "hooks": [(id(hook) if callable(hook) else hook) for hook in hooks],
        "methods": [sorted((key, id(value)) for key, value in vars(one).items()) for one in classes],
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "environment": dict(os.environ),
        "random": random.getstate(),
        "numpy": [str(part) for part in numpy.random.get_state()],
    }

before, threads = state(), set(threading.enumerate())
made = importlib.import_module(subject).make_subject(Path(folder))
client = data.Client(made, Path(folder))
script = data.Script("in a process", name="in a process")
script.log("loss", 1, 0.5)
client.send(script.begin(), script.collect())
for sample in data.SAMPLES:
    if sample.tag in ("note", "image", "weights", "sound"):
        client.send(script.record(*sample))
client.send(script.end("finished"))
client.close()
stored = len(made.points("in a process")["loss"])
made.close()
after = state()
for thread in set(threading.enumerate()) - threads:
    thread.join(2)  # those that are about to end
print(json.dumps({
    "library": tracker.library, "imported": imported, "taken": taken, "stored": stored,
    "changed": [key for key in before if before[key] != after[key]],
    "values": [
        (key, str(name), str(before[key].get(name)), str(after[key].get(name)))
        for key in ("environment", "signals") for name in before[key].keys() | after[key].keys()
        if before[key].get(name) != after[key].get(name)
    ],
    "threads": [repr(thread) for thread in set(threading.enumerate()) - threads],
    "children": [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)],
}))
"""


def test_a_process_is_what_it_was(request: pytest.FixtureRequest, subject: Subject, tmp_path: Path) -> None:
    """Importing and making a tracker imports no library; using it changes and leaves nothing."""
    name = next(name for name in TRACKERS if f"[{name}]" in request.node.name)
    module, _, cls = TRACKERS[name].partition(":")
    if name == "mlflow":
        shutil.copy(subject._database, tmp_path / "mlflow.db")  # pyright: ignore[reportAttributeAccessIssue]
    arguments = [module, cls, f"tests.support.{name}_subject", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, *arguments],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    found = json.loads(done.stdout)
    assert importlib.util.find_spec(found["library"]) is not None
    assert not found["imported"], "importing or making the tracker imports its library"
    assert found["taken"] == [], "wrong options that raise no TypeError"
    assert found["stored"] == 1
    assert found["changed"] == [], found["values"]
    assert (found["threads"], found["children"]) == ([], [])


def test_what_a_tracker_says_of_itself(subject: Subject) -> None:
    tracker = subject.make()
    assert tracker.name == subject.name
    assert tracker.capabilities.time_resolution_ns >= 1


# -- points -----------------------------------------------------------------------------------------------


def test_every_name_stays_itself(
    subject: Subject, new_client: NewClient, run_id: str, resolution: int
) -> None:
    assert len(set(TAGS)) == len(TAGS)
    client, script = new_client(), Script(run_id)
    for number, tag in enumerate(TAGS):
        for step in range(3):
            script.log(tag, step, number + step / 4, NOW + number * SECOND + step * 10_000_000)
    outcome = client.send(script.begin(), script.collect(), script.end("finished"))
    client.close()
    assert outcome.accepted == len(script.logged)
    check_points(subject, run_id, script.logged, resolution)


def test_every_step_value_and_time(
    subject: Subject, new_client: NewClient, run_id: str, resolution: int
) -> None:
    client, script = new_client(), Script(run_id)
    for number, step in enumerate(STEPS):
        script.log("steps", step, number, NOW + number * SECOND)
    for step, value in enumerate(VALUES):
        script.log("values", step, value, NOW + step * SECOND)
    for step, moment in enumerate(TIMES):
        script.log("times", step, step, moment)
    outcome = client.send(script.begin(), script.collect(), script.end("finished"))
    client.close()
    assert outcome.accepted == len(script.logged)
    check_points(subject, run_id, script.logged, resolution)


def test_what_it_says_to_keep_it_keeps(
    subject: Subject, new_client: NewClient, run_id: str, resolution: int
) -> None:
    client, script = new_client(), Script(run_id)
    for step, value in enumerate((1.0, math.nan, 2.0, math.nan)):
        script.log("nan", step, value, NOW + step * SECOND)
    for step, value in enumerate((1.0, math.inf, -math.inf)):
        script.log("infinity", step, value, NOW + step * SECOND)
    for number in range(3):
        script.log("repeat", 3, number % 2, NOW + number * SECOND)
    for number in range(90):  # two series of one tag, which begin at about the same microsecond
        value = number if number % 3 else (math.nan, math.inf, -math.inf)[number // 3 % 3]
        script.log("mixed", number, value, NOW + number * SECOND)
    script.log("at once", 1, 1.0)  # within what may be the tracker's resolution
    script.log("at once", 1, 2.0)
    script.log("at once", 1, 1.0, NOW + 1000)
    script.log("at once", 1, math.nan, NOW + 2000)
    script.log("at once", 1, math.nan, NOW + 3000)
    outcome = client.send(script.begin(), script.collect(), script.end("finished"))
    client.close()
    assert outcome.accepted == len(script.logged)
    check_points(subject, run_id, script.logged, resolution)
    claims, native = client.tracker.capabilities, native_points(subject, run_id)

    def natively(tag: str, kind: Callable[[float], bool] = lambda value: True) -> int:
        return sum(point.tag == tag and kind(point.value) for point in native)

    assert natively("nan", math.isnan) == (2 if claims.keeps_nan else 0)
    assert natively("infinity", math.isinf) == (2 if claims.keeps_infinity else 0)
    assert natively("repeat") == (3 if claims.keeps_repeated_step else 1)


def beginning_at(requests: list[Request], numbers: dict[str, int]) -> list[Request]:
    """The same requests with these numbers for the first points of the series, by the value's kind."""
    changed: list[Request] = []
    for request in requests:
        message = parse_metrics(request.data)
        for metric in message.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.gauge.data_points if metric.HasField("gauge") else metric.sum.data_points:
                kind = next((item.value.string_value for item in point.attributes if item.key == VALUE), "")
                for attribute in point.exemplars[0].filtered_attributes if point.exemplars else ():
                    if attribute.key == SEQUENCE:
                        attribute.value.int_value = numbers[kind]
        changed.append(request._replace(data=message.SerializeToString()))
    return changed


def test_each_kind_of_value_has_numbers_of_its_own(
    subject: Subject, new_client: NewClient, run_id: str, resolution: int
) -> None:
    """The series of a tag's finite values, NaN and infinities begin at microseconds that may be close."""
    client, script = new_client(), Script(run_id)
    values = {"": -0.0, "NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    numbers = {kind: NOW // 1000 + 2 * place for place, kind in enumerate(values)}
    client.send(script.begin())
    for length in (1, 12, 12):
        for place in range(length * len(values)):
            step = len(script.logged)
            script.log("loss", step, list(values.values())[place % len(values)], NOW + step * SECOND)
        request = beginning_at(script.collect(), numbers)
        assert client.send(request).accepted == client.send(request).accepted == length * len(values)
        numbers = {kind: number + length for kind, number in numbers.items()}
    client.send(script.end("finished"))
    client.close()
    check_points(subject, run_id, script.logged, resolution)


def test_ranks_write_one_run_and_stay_apart(
    subject: Subject, new_client: NewClient, run_id: str, resolution: int
) -> None:
    ranks = [(new_client(), Script(run_id, rank=rank, name="ranks")) for rank in range(3)]
    for turn in range(2):
        for rank, (client, script) in enumerate(ranks):
            for step in range(2):
                number = turn * 2 + step
                script.log("loss", number, rank + number / 8, NOW + number * SECOND + rank)
            script.log("loss/rank_2", turn, 100 + rank + turn, NOW + turn * SECOND)
            client.send(script.begin() if turn == 0 else [], script.collect())
    for client, _ in ranks[1:]:
        client.close()
    first, script = ranks[0]
    first.send(script.end("finished"))
    first.close()
    logged = [point for _, script in ranks for point in script.logged]
    check_points(subject, run_id, logged, resolution)
    assert subject.status(run_id) == "finished"


# -- again ------------------------------------------------------------------------------------------------


def without_half_of(requests: list[Request]) -> list[Request]:
    """The same requests with the later half of their data points only."""
    halved: list[Request] = []
    for request in requests:
        message = parse_metrics(request.data)
        for resource in message.resource_metrics:
            for metric in resource.scope_metrics[0].metrics:
                points = metric.gauge.data_points if metric.HasField("gauge") else metric.sum.data_points
                del points[: len(points) // 2]
        halved.append(request._replace(data=message.SerializeToString()))
    return halved


def merged(*requests: list[Request]) -> list[Request]:
    """All requests of one signal as a single one."""
    kind: Any = ExportLogsServiceRequest
    message = kind()
    if requests[0][0].signal == "metrics":
        message = parse_metrics(b"")
    for request in (request for part in requests for request in part):
        message.MergeFromString(request.data)
    return [Request(requests[0][0].signal, message.SerializeToString())]


def test_what_comes_again_changes_nothing(
    subject: Subject, new_client: NewClient, run_id: str, resolution: int
) -> None:
    script = Script(run_id, name="again")
    for number in range(24):
        value = (number, math.nan, math.inf)[number % 3]
        script.log(f"tag {number % 6}", number // 12, value, NOW + number * SECOND)
    for number in range(4):
        script.log("repeat", 1, number, NOW + number * SECOND)
    first = script.collect()
    records = [
        *script.record("text", "note", 1, b"again", "text/plain"),
        *script.record("image", "image", 1, picture(), "image/png"),
        *script.record("histogram", "broken", 1, b'{"min": 0}', "application/json"),
        *script.record("artifact", "", None, b"again", "", {"tracelet.file.name": "again.txt"}),
        *script.record("params", "", None, b'{"lr": 0.1}', "application/json"),
    ]
    begin = script.begin()

    client = new_client()
    client.send(begin)
    once = client.send(first).accepted
    assert once == len(script.logged) == client.send(first).accepted
    for record in records:
        assert client.try_to_send([record]).accepted == client.try_to_send([record]).accepted
    client.send(script.end("finished"))
    client.close()
    check_points(subject, run_id, script.logged, resolution)
    media, names = Counter(subject.media(run_id)), files_of_the_user(subject, run_id)

    later = new_client()
    later.send(begin)
    assert later.send(first).accepted == once
    later.try_to_send(records)
    later.send(script.end("finished"))
    later.close()
    check_points(subject, run_id, script.logged, resolution)

    for number in range(12):
        script.log(f"tag {number % 6}", 2 + number // 6, number, NOW + (100 + number) * SECOND)
    script.log("repeat", 1, 9.0, NOW + 200 * SECOND)
    half = new_client()
    half.send(begin, merged(without_half_of(first), script.collect()), script.end("finished"))
    half.close()
    check_points(subject, run_id, script.logged, resolution)
    assert Counter(subject.media(run_id)) == media
    assert files_of_the_user(subject, run_id) == names


def files_of_the_user(subject: Subject, run_id: str) -> list[str]:
    """The names of a run's files without those of our own."""
    return sorted(name for name in subject.files(run_id) if not name.startswith("tracelet/"))


# -- records ----------------------------------------------------------------------------------------------


def test_every_kind_of_record_is_kept(subject: Subject, new_client: NewClient, run_id: str) -> None:
    client, script = new_client(), Script(run_id)
    client.send(script.begin())
    for number, sample in enumerate(SAMPLES):
        outcome = client.try_to_send(script.record(*sample, time_unix_nano=NOW + number * SECOND))
        counted = 0 if sample.kind in ATTENDANTS else 1
        assert (outcome.accepted, outcome.rejected) == (counted, []), sample
    client.send(script.end("finished"))
    client.close()
    there = blobs(subject, run_id)
    lost = [sample[:3] for sample in SAMPLES if sample.payload is not None and not kept(sample, there)]
    assert lost == []
    known = [*subject.params(run_id).values(), *subject.tags(run_id).values()]
    everything = "\n".join([*known, *(blob.decode(errors="replace") for blob in there)])
    for about in ("/somewhere/epoch=3-step=12.ckpt", "12345", "0.125", "val_loss"):
        assert about in everything  # a checkpoint that was not uploaded
    shown = {(media.kind, media.content): (media.tag, media.step) for media in subject.media(run_id)}
    for sample in SAMPLES:
        if place := shown.get((sample.kind, sample.payload or b"")):
            assert place[1] == (sample.step or 0), sample
            assert place[0] == sample.tag or sample.attributes.get("tracelet.index"), (place, sample)


def kept(sample: Sample, there: list[bytes]) -> bool:
    """Whether the sample's content is there: its exact bytes, or for the environment the same JSON."""
    if sample.payload in there:
        return True
    return sample.kind == "environment" and any(is_json_of(blob, sample.payload or b"") for blob in there)


def is_json_of(blob: bytes, payload: bytes) -> bool:
    try:
        return json.loads(blob) == json.loads(payload)
    except ValueError:
        return False


def test_large_payloads_come_from_their_files(
    subject: Subject, new_client: NewClient, run_id: str, tmp_path: Path
) -> None:
    client, script = new_client(), Script(run_id, media=tmp_path / "media")
    noise = random.Random(0).randbytes(3 * 2**20)
    large = picture(size=(900, 700), kind="BMP")
    client.send(
        script.begin(),
        script.record("artifact", "", 1, noise, "", {"tracelet.file.name": "noise.bin"}),
        script.record("image", "large", 1, large, "image/bmp"),
        script.end("finished"),
    )
    client.close()
    assert len(list((tmp_path / "media").iterdir())) == 2
    there = blobs(subject, run_id)
    assert noise in there
    assert large in there


def test_a_bad_record_costs_itself_only(
    subject: Subject, new_client: NewClient, run_id: str, tmp_path: Path
) -> None:
    media = tmp_path / "media"
    client, script = new_client(), Script(run_id, media=media)
    large = b"x" * (2**20 + 1)

    def artifact(name: str, payload: bytes) -> list[Request]:
        return script.record("artifact", "", None, payload, "", {"tracelet.file.name": name})

    missing = artifact("missing", large + b"1")
    next(iter(media.iterdir())).unlink()
    changed = artifact("changed", large + b"2")
    next(iter(media.iterdir())).write_bytes(b"something else")
    broken = [
        *(script.record("params", payload=payload) for payload in (b"{", b"[1]", b"\xff", b"")),
        *(script.record("tags", payload=payload) for payload in (b"{", b"7")),
        *(
            script.record("histogram", "h", 1, payload)
            for payload in (b"{", b'{"bucket_limits": "x"}', b"[]")
        ),
        *(script.record("pr_curve", "p", 1, payload) for payload in (b"", b"null", b'{"recall": [1]}')),
        *(script.record(kind, "m", 1, b"no such thing") for kind in ("image", "audio", "video", "mesh")),
        *(script.record(kind, "", 1, b"{") for kind in ("layout", "graph", "environment", "embedding")),
    ]
    bad = [missing, changed, *broken]
    parts = [artifact("first", b"first")]
    for number, record in enumerate(bad):
        parts += [record, artifact(f"good {number}", f"good {number}".encode())]
    script.log("loss", 1, 0.5)
    client.send(script.begin())
    outcome = client.try_to_send(merged(*parts))
    unknown = Record(run_id, "hologram", "x", 1, NOW, {}, payload=b"x")  # pyright: ignore[reportArgumentType]
    refused = client.tracker.write_record(unknown)
    client.send(script.collect(), script.end("finished"))
    client.close()
    assert (refused.accepted, len(refused.rejected)) == (0, 1)
    # One of them, the environment, is not counted unless it is refused.
    assert outcome.accepted + len(outcome.rejected) in (len(parts) - 1, len(parts))
    assert len(outcome.rejected) >= 2, outcome.rejected
    there = blobs(subject, run_id)
    lost = [number for number in range(len(bad)) if f"good {number}".encode() not in there]
    assert lost == []
    assert b"first" in there
    assert b"something else" not in there
    assert [point.value for point in native_points(subject, run_id)] == [0.5]


# -- what describes a run ---------------------------------------------------------------------------------

PARAMS: Final[dict[str, Any]] = {
    "lr": 0.1,
    "small": 1e-320,
    "layers": 3,
    "huge": 2**70,
    "amp": True,
    "nothing": None,
    "text": "a text: Größe\nof two lines",
    "empty text": "",
    "betas": [0.9, 0.999],
    "mixed": [1, "two", None, {"three": 3}],
    "optimizer": {"name": "adam", "nested": {"deep": {"er": 1}}},
    "long": "0123456789" * 1000,
    "odd name: ä/b?": "odd",
    "with.dots": "dots",
    "n" * 600: "a long name",
    "n" * 599 + "m": "another long name",
    "_wandb": "own",
    "tracelet": "ours",
}
LABELS: Final = {
    "team": "vision",
    "with space": "a value",
    "colon:ed": "a:b",
    "größe": "groß",
    "long": "v" * 9000,
    "no value": "",
}


def flat(params: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def reads_back(text: str | None, value: Any) -> bool:
    """Whether a parameter's text says this value, in Python's words or in JSON's."""
    if text is None:
        return False
    if isinstance(value, str):
        return text == value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError):
            continue
        if found == value and type(found) is type(value):
            return True
    return False


def test_params_and_tags(subject: Subject, new_client: NewClient, run_id: str) -> None:
    client, script = new_client(), Script(run_id, name="params", tags=LABELS)
    more = {"added": "later", "team": "speech"}
    outcome = client.send(
        script.begin(),
        script.record("params", payload=json.dumps(PARAMS).encode()),
        script.record("params", payload=b'{"lr": 0.2, "new": 1}', time_unix_nano=NOW + 1),
        script.record("tags", payload=json.dumps(more).encode(), time_unix_nano=NOW + 2),
        script.end("finished"),
    )
    client.close()
    assert outcome.accepted == 3
    params = subject.params(run_id)
    expected = {**dict(flat(PARAMS)), "lr": 0.2, "new": 1}
    wrong = {
        name[:50]: (value, params.get(name))
        for name, value in expected.items()
        if not reads_back(params.get(name), value)
    }
    assert wrong == {}
    tags = subject.tags(run_id)
    assert {name: tags.get(name) for name in {**LABELS, **more}} == {**LABELS, **more}


def test_name_project_and_experiment(subject: Subject, new_client: NewClient, run_id: str) -> None:
    client = new_client()
    described: dict[str, Any] = {"name": "first name", "project": "a project", "experiment": "an experiment"}
    script = Script(run_id, **described)
    client.send(script.begin())
    assert client.exporter.locations()[0]
    script.run.name = "second name"
    script.log("loss", 1, 0.5)
    client.send(script.begin(), script.collect(), script.end("finished"))
    client.close()
    assert subject.description(run_id) == {**described, "name": "second name"}
    assert len(native_points(subject, run_id)) == 1


def test_a_child_run_shows_its_parent(subject: Subject, new_client: NewClient, run_id: str) -> None:
    parent = Script(run_id, name="sweep")
    parent.log("loss", 0, 0.5)
    child = Script(f"{run_id}-child", name="trial", parent=run_id, family="sweep-1234")
    child.log("loss", 0, 0.25)
    client = new_client()
    client.send(parent.begin(), parent.collect())
    parent.run.family = "sweep-1234"  # with its first child
    client.send(parent.begin(), child.begin(), child.collect(), child.end("finished"))
    grandchild = Script(f"{run_id}-grandchild", parent=f"{run_id}-child", family="sweep-1234")
    grandchild.log("loss", 0, 0.125)
    client.send(grandchild.begin(), grandchild.collect(), grandchild.end("failed"), parent.end("finished"))
    client.close()
    assert subject.parent(run_id) == ""
    assert subject.parent(f"{run_id}-child") == run_id
    assert subject.parent(f"{run_id}-grandchild") == f"{run_id}-child"
    assert (subject.status(run_id), subject.status(f"{run_id}-child")) == ("finished", "finished")
    assert subject.description(f"{run_id}-child")["name"] == "trial"
    late = new_client()
    child.log("loss", 1, 0.25)
    late.send(child.collect(), child.end("finished"))  # of a process that was not told of the parent
    late.close()
    assert subject.parent(f"{run_id}-child") == run_id


def test_a_parent_may_come_after_its_children(subject: Subject, new_client: NewClient, run_id: str) -> None:
    names = [f"{run_id}-{number}" for number in range(2)]
    for name in names:
        child, client = Script(name, parent=run_id, family="late-5678"), new_client()
        child.log("loss", 0, 0.25)
        client.send(child.begin(), child.collect(), child.end("finished"))
        client.close()
    parent, client = Script(run_id, family="late-5678"), new_client()
    parent.log("loss", 0, 0.5)
    client.send(parent.begin(), parent.collect(), parent.end("finished"))
    client.close()
    assert [subject.parent(name) for name in names] == [run_id, run_id]
    assert [subject.status(name) for name in names] == ["finished", "finished"]


def test_odd_descriptions_open_a_run_each(subject: Subject, new_client: NewClient) -> None:
    client, prefix = new_client(), uuid.uuid4().hex[:8]
    odd = ("näme: with/odd \\ things?", "x" * 600, "a", ".", "..", " ", "tab\there", "100 %", "🔥", "a.b:c")
    for number, text in enumerate(odd):
        script = Script(f"{prefix} {text}"[:700], name=text, project=text, experiment=text, tags={text: text})
        script.log("loss", number, number)
        client.send(script.begin(), script.collect(), script.end("finished"))
    client.close()
    for number, text in enumerate(odd):
        [point] = native_points(subject, f"{prefix} {text}"[:700])
        assert (point.step, point.value) == (number, number)


# -- from a run's start to its end ------------------------------------------------------------------------


def test_several_runs_at_once_their_ends_and_what_follows(
    subject: Subject, new_client: NewClient, resolution: int
) -> None:
    statuses: list[Status] = ["finished", "failed", "killed"]
    prefix = uuid.uuid4().hex[:8]
    scripts = [Script(f"{prefix}-{status}", name=status, experiment="several") for status in statuses]
    client = new_client()
    for script in scripts:
        client.send(script.begin())
    for turn in range(3):
        for number, script in enumerate(scripts):
            script.log("loss", turn, number + turn / 4, NOW + turn * SECOND)
            script.log(f"only {number}", turn, turn, NOW + turn * SECOND)
            client.send(script.collect(), script.record("text", "note", turn, f"{number} {turn}".encode()))
    assert {subject.status(script.run.id) for script in scripts} == {"running"}
    for status, script in zip(statuses, scripts, strict=True):
        client.send(script.end(status))
    scripts[1].log("late", 1, 1.0)  # a thread's last value
    client.send(scripts[1].collect())
    client.close()
    for number, (status, script) in enumerate(zip(statuses, scripts, strict=True)):
        assert subject.status(script.run.id) == status
        check_points(subject, script.run.id, script.logged, resolution)
        notes = {blob for blob in blobs(subject, script.run.id) if blob in TEXTS}
        assert notes == {f"{number} {turn}".encode() for turn in range(3)}

    resumed = new_client()
    for script in scripts:
        script.log("loss", 3, 0.25, NOW + 3 * SECOND)
        resumed.send(script.begin(), script.collect())
        assert subject.status(script.run.id) == "running"
    for status, script in zip((*statuses[1:], statuses[0]), scripts, strict=True):
        resumed.send(script.end(status))
        assert subject.status(script.run.id) == status
        check_points(subject, script.run.id, script.logged, resolution)


TEXTS: Final = {f"{number} {turn}".encode() for number in range(3) for turn in range(3)}


def test_a_client_that_ends_leaves_its_runs_open(
    subject: Subject, new_client: NewClient, run_id: str, resolution: int
) -> None:
    script = Script(run_id)
    for number in range(3):
        script.log("repeat", 1, number, NOW + number * SECOND)
    client = new_client()
    client.send(script.begin(), script.collect())
    client.close()
    assert subject.status(run_id) == "running"
    check_points(subject, run_id, script.logged, resolution)


# -- the machine, and files -------------------------------------------------------------------------------


def machine(now: int) -> list[SystemPoint]:
    """What OpenTelemetry measures of a machine with two GPUs, under its own names."""
    point: Callable[..., SystemPoint] = lambda name, value, **attributes: SystemPoint(  # noqa: E731
        name, {key.replace("__", "."): item for key, item in attributes.items()}, value, now
    )
    return [
        *(point("system.cpu.utilization", 0.1, cpu=cpu, state="user") for cpu in (1, 2)),
        *(point("system.cpu.utilization", 0.9, cpu=cpu, state="idle") for cpu in (1, 2)),
        *(point("system.cpu.time", 12.5, cpu=cpu, state="user") for cpu in (1, 2)),
        point("system.memory.usage", 4e9, state="used"),
        point("system.memory.usage", 12e9, state="free"),
        point("system.memory.utilization", 0.25, state="used"),
        point("system.disk.io", 1e6, device="sda", direction="read"),
        point("system.filesystem.utilization", 0.5, device="/dev/sda1", mountpoint="/"),
        point("system.network.io", 2e6, device="eth0", direction="transmit"),
        point("process.cpu.utilization", 0.3),
        point("process.memory.usage", 1e9),
        point("process.thread.count", 12.0),
        *(point("hw.gpu.utilization", 0.25 + gpu / 2, hw__id=str(gpu), hw__name="A") for gpu in range(2)),
        *(point("hw.gpu.memory.usage", (1 + gpu) * 1e9, hw__id=str(gpu), hw__name="A") for gpu in range(2)),
        *(point("hw.gpu.memory.utilization", 0.1 + gpu / 2, hw__id=str(gpu)) for gpu in range(2)),
        *(point("hw.power", 150.0 + gpu, hw__id=str(gpu), hw__type="gpu") for gpu in range(2)),
        *(point("hw.temperature", 60.0 + gpu, hw__id=str(gpu), hw__type="gpu") for gpu in range(2)),
        point("system.something.new", 1.0),
    ]


def test_the_machine_has_a_place_of_its_own(
    subject: Subject, new_client: NewClient, run_id: str, resolution: int
) -> None:
    client, script = new_client(), Script(run_id)
    client.send(script.begin())
    now = time.time_ns()  # some trackers count from the run's start
    for turn in range(2):
        outcome = client.tracker.write_system(run_id, machine(now + turn * 10 * SECOND))
        assert outcome.rejected == []
    script.log("loss", 1, 0.5)
    client.send(script.collect(), script.end("finished"))
    client.close()
    system = subject.system(run_id)
    values = {value for measured in system.values() for value in measured}
    assert values & {0.25, 25.0}, system  # the two GPUs, as fractions or in percent
    assert values & {0.75, 75.0}, system
    assert max(map(len, system.values())) >= 2
    check_points(subject, run_id, script.logged, resolution, besides=system)

    # A script may call its own tags what the tracker calls the machine's.
    other = Script(f"{run_id}-names")
    client = new_client()
    client.send(other.begin())
    client.tracker.write_system(other.run.id, machine(now))
    for number, name in enumerate(sorted(system)):
        other.log(name, 7, 1000 + number)
    client.send(other.collect(), other.end("finished"))
    client.close()
    check_points(subject, other.run.id, other.logged, resolution)


def test_a_file_is_replaced_by_one_of_its_name(
    subject: Subject, new_client: NewClient, run_id: str, tmp_path: Path
) -> None:
    client, script = new_client(), Script(run_id)
    client.send(script.begin())
    file = tmp_path / "file"
    for content in (b"first content", b"second \xff", b"third"):
        file.write_bytes(content)
        client.tracker.write_file(run_id, "tracelet/report.json", file)
        client.tracker.write_file(run_id, "other/report.json", file)
    client.send(script.end("finished"))
    client.close()
    files = subject.files(run_id)
    assert files["tracelet/report.json"] == files["other/report.json"] == b"third"
    assert file.read_bytes() == b"third"


# -- any names, any points, cut anywhere ------------------------------------------------------------------

PIECES: Final = st.sampled_from(
    [
        *(
            "/",
            "//",
            ".",
            "..",
            "_",
            "__",
            "_x",
            "_x002F_",
            "_x005F_",
            "%",
            "%2F",
            "%25",
            ":",
            " ",
            "\t",
            "\\",
        ),
        *("a", "A", "loss", "é", "e\u0301", "漢", "😀", "\x00", "\n", "#", "?", "*", "~", "{", "}", "=", ","),
        *(
            "rank_1",
            "/rank_1",
            "/rank_0",
            "system/",
            "__system__",
            ":monitor:",
            "tracelet",
            "_step",
            "0" * 32,
        ),
        *("a" * 100, "_sha256_", "-", "+", "|", "'", '"', "<", "&", "global_step", "\x7f", "\u2028"),
    ]
)
NAMES: Final = st.one_of(st.text(max_size=8), st.lists(PIECES, max_size=6).map("".join))
POINTS: Final = st.tuples(
    st.integers(0, 5),  # which name
    st.one_of(st.integers(-3, 6), st.integers(-(2**63), 2**63 - 1)),
    st.floats(),
    st.integers(0, 5).map(lambda number: number * 333_333_333),
)


def surrogate_free(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def test_nothing_is_lost_and_no_two_names_are_merged(
    request: pytest.FixtureRequest, subject: Subject, new_client: NewClient, resolution: int
) -> None:
    client = new_client()
    name = next(name for name in TRACKERS if f"[{name}]" in request.node.name)

    # A failure is shown as it was found: shrinking it would take minutes.
    @settings(max_examples=EXAMPLES[name], phases=[Phase.generate])
    @given(
        st.lists(NAMES.filter(surrogate_free), min_size=1, max_size=6, unique=True),
        st.lists(POINTS, min_size=1, max_size=30),
        st.integers(1, 7),
        st.sampled_from([None, 0, 1]),
    )
    def check(
        names: list[str], points: list[tuple[int, int, float, int]], size: int, rank: int | None
    ) -> None:
        script = Script(f"run-{uuid.uuid4().hex}", rank=rank)
        client.send(script.begin())
        accepted = 0
        for number, (which, step, value, offset) in enumerate(points):
            # No exact repeats: nobody can tell them from a retry.
            script.log(names[which % len(names)], step, value, NOW + offset + number)
            if number % size == 0:
                accepted += client.send(script.collect()).accepted
        accepted += client.send(script.collect()).accepted
        client.send(script.end("finished"))
        assert accepted == len(points)
        check_points(subject, script.run.id, script.logged, resolution)

    check()


# -- the check itself -------------------------------------------------------------------------------------


def test_the_comparison_sees_every_difference() -> None:
    from tests.support.contract_data import differences

    one = LoggedPoint("a", None, 1, 0.5, NOW)
    other = replace_point(one, step=2)
    assert differences([one], [one], [], 1) == []
    assert differences([one], [], [one], 1) == []
    assert differences([one], [replace_point(one, time_unix_nano=NOW + 9)], [], 10) == []
    for native, companion in (
        ([], []),
        ([one], [one]),
        ([one, one], []),
        ([other], []),
        ([one, other], []),
        ([], [one, one]),
        ([], [replace_point(one, time_unix_nano=NOW + 1)]),
        ([replace_point(one, tag="A")], []),
        ([replace_point(one, value=0.5000000000000001)], []),
        ([replace_point(one, value=math.nan)], []),
        ([replace_point(one, time_unix_nano=NOW + 10)], []),
    ):
        assert differences([one], native, companion, 10), (native, companion)
    zero = replace_point(one, value=0.0)
    assert differences([zero], [replace_point(zero, value=-0.0)], [], 10)


def replace_point(point: LoggedPoint, **changes: Any) -> LoggedPoint:
    return point._replace(**changes)
