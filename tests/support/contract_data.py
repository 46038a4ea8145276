"""What the contract test logs, how it reaches a tracker, and how what the tracker has is compared with it.

Everything goes the real way: a :class:`~tracelet_otel.session.pipeline.Pipeline` makes the OTLP requests, and
:class:`~tracelet_otel.tracker.exporter.TrackerExporter` writes them.
"""

from __future__ import annotations

import io
import json
import math
import struct
import uuid
import wave
from base64 import b64decode
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from opentelemetry.sdk.resources import Resource
from PIL import Image

from tests.support.subject import Subject
from tracelet_otel import semconv
from tracelet_otel.otlp import encoding, splitting
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.recording.run import Run, RunScope
from tracelet_otel.semconv import Kind, Status
from tracelet_otel.session.pipeline import Pipeline
from tracelet_otel.tracker.exporter import TrackerExporter
from tracelet_otel.tracker.interface import Outcome

NOW: Final = 1_700_000_000_123_456_789
"""Nanoseconds since 1970 at which everything here happens."""
SECOND: Final = 10**9

TAGS: Final = (
    # names that only case, white space, a separator or a Unicode form tells apart
    *("loss", "Loss", "loss ", " loss", "train/loss", "train loss", "train.loss", "train-loss", "train:loss"),
    *("train_loss", "train\\loss", "train//loss", "/train/loss", "train/loss/", "train\tloss", "train\nloss"),
    *("caf\u00e9", "cafe\u0301", "Verlust/Größe", "损失/训练", "🔥", "a\x00b", "a\x01b", "a\x7fb"),
    # names that are nearly none, or paths
    *("", " ", "_", ".", "..", "/", "./x", "../up", "a/../b", "a/./b", "*", "?", "[0]", "#", "%", "~"),
    *("null", "None", "NaN", "0", "True", "'", '"', "`b`", "$x", "<b>", "{k=1}", "a=b", "a,b", "a;b", "a|b"),
    # what escapes look like
    *("a%2Fb", "a%252Fb", "a_x002F_b", "a_x005F_x002F_b", "_x_", "a\\.b", "a&amp;b", "a~b", "a+b", "a__b"),
    # names of the trackers' own
    *(
        "_step",
        "_timestamp",
        "_runtime",
        "_wandb",
        "_tracelet",
        "global_step",
        "step",
        "epoch",
        "trainer/step",
    ),
    *("system/cpu", "system.cpu", "system/cpu_utilization_percentage", "__system__cpu", "__hidden"),
    *(":monitor:machine", ":monitor:machine/cpu_usage", ":monitor:gpu/gpu_0_utilization", "Summary"),
    *(
        "tracelet",
        "tracelet/companion-0.jsonl",
        "tracelet.tag",
        "mlflow.runName",
        "media/images/x",
        "metrics",
    ),
    # ranks, which every tracker has to tell from names
    *("loss/rank_01", "loss/rank_0", "rank_1", "loss/rank_", "loss/rank_x005F_1"),
    # long ones, that differ at their ends only
    *("x" * 1000, "x" * 999 + "y", "y" + "x" * 999, "deep/" * 200 + "a", "deep/" * 200 + "b", "é" * 1000),
    *("x" * 218 + "_sha256_" + "0" * 32, "segment" * 40 + "/a", "segment" * 40 + "/b"),
)
STEPS: Final = (0, 7, 3, -1, -1000, 2**31, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 4, 5, 1)
VALUES: Final = (
    *(0.0, -0.0, 0.1, 1 / 3, -1e-7, 0.30000000000000004, 16_777_217.0, 2.0**53 + 2, 123_456_789.123_456_79),
    *(5e-324, -5e-324, 2.2250738585072014e-308, 1.5e-310, 1.7976931348623157e308, -1.7976931348623157e308),
    *(3.4028234663852886e38, 3.5e38, -1e39, 1e-46, 1e16, 1e22, 7, -3, 2**40),
)
TIMES: Final = (
    *(
        NOW,
        NOW - SECOND,
        NOW + 1,
        NOW + 999,
        NOW + 500_000,
        NOW + 999_999,
        NOW + 1_000_001,
        NOW - 60 * SECOND,
    ),
    *(1, SECOND, SECOND + 1, 946_684_799_999_999_999, 4_102_444_800_000_000_001),
)


class LoggedPoint(NamedTuple):
    """A point as a script logged it."""

    tag: str
    rank: int | None
    step: int
    value: float
    time_unix_nano: int

    @property
    def name(self) -> str:
        """The tag as a subject gives it back."""
        return f"{self.tag}/rank_{self.rank}" if self.rank else self.tag


class Request(NamedTuple):
    """One OTLP request."""

    signal: Literal["metrics", "logs"]
    data: bytes


class Script:
    """What one process logs into one run, as OTLP requests, and the points that these hold."""

    def __init__(
        self, run_id: str, *, rank: int | None = None, media: Path | None = None, **run: Any
    ) -> None:
        self.run = Run(id=run_id, rank=rank, **run)
        self.logged: list[LoggedPoint] = []
        folder = MediaFolder(str(media) if media else "")
        self.pipeline = Pipeline(self.resource(), RunScope(self.run), interval=3600, media=folder)

    def resource(self) -> Resource:
        """What describes the process."""
        return Resource.create({})

    def begin(self) -> list[Request]:
        """The record that describes the run."""
        return self.record("run", payload=self.run.description(), mime_type="application/json")

    def end(self, status: Status) -> list[Request]:
        """The record that ends the run."""
        return self.record("status", attributes={semconv.RUN_STATUS: status})

    def log(self, tag: str, step: int, value: float, time_unix_nano: int = NOW) -> None:
        """Logs a point."""
        self.pipeline.recorder.scalar((tag, value, step, time_unix_nano, False, None))
        self.logged.append(LoggedPoint(tag, self.run.rank, step, float(value), time_unix_nano))

    def collect(self) -> list[Request]:
        """The points since the last call."""
        data = self.pipeline._reader.take()
        chunks = splitting.split(data) if data else ()
        return [
            Request("metrics", encoding.encode(chunk.data).SerializeToString())
            for chunk in chunks
            if chunk.has_new_points
        ]

    def record(
        self,
        kind: Kind,
        tag: str = "",
        step: int | None = None,
        payload: bytes | None = None,
        mime_type: str = "",
        attributes: Mapping[str, Any] | None = None,
        time_unix_nano: int = NOW,
    ) -> list[Request]:
        """Logs a record."""
        self.pipeline.recorder.event(
            LoggedEvent(kind, tag, step, payload, mime_type, attributes, time_unix_nano, None)
        )
        return [
            Request("logs", encoding.encode_records(part).SerializeToString())
            for part in splitting.split_logs(self.pipeline._events.drain())
        ]


class Client:
    """One process's way to a tracker: its own client, and its own folder for companion files."""

    def __init__(self, subject: Subject, folder: Path, run: RunInfo | None = None) -> None:
        self.tracker = subject.make()
        companions = folder / f"companions-{uuid.uuid4().hex}"
        self.exporter = TrackerExporter(self.tracker, companions=companions, run=run)
        self.is_open = True
        self.exporter.load()
        self.exporter.connect()

    def send(self, *requests: list[Request]) -> Outcome:
        """Writes requests one after the other; nothing in them may be refused."""
        outcome = self.try_to_send(*requests)
        assert outcome.rejected == []
        return outcome

    def try_to_send(self, *requests: list[Request]) -> Outcome:
        """Writes requests one after the other."""
        outcome = Outcome()
        for request in (request for part in requests for request in part):
            write = self.exporter.write_metrics if request.signal == "metrics" else self.exporter.write_logs
            outcome.add(write(request.data))
        return outcome

    def close(self) -> None:
        """Ends the client, once."""
        if self.is_open:
            self.is_open = False
            self.exporter.close()


# -- comparing --------------------------------------------------------------------------------------------

Key = tuple[str, int, bytes]


def _bits(value: float) -> bytes:
    return b"NaN" if math.isnan(value) else struct.pack(">d", value)


def companion_lines(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Every line of a run's companion files."""
    return [
        json.loads(line)
        for name, content in sorted(files.items())
        if name.startswith("tracelet/companion-")
        for line in content.decode().splitlines()
    ]


def companion_points(files: Mapping[str, bytes]) -> list[LoggedPoint]:
    """Every point of a run's companion files."""
    return [
        LoggedPoint(line["tag"], line["rank"], line["step"], float(line["value"]), line["time_unix_nano"])
        for line in companion_lines(files)
        if line["kind"] == "scalar"
    ]


def native_points(subject: Subject, run_id: str) -> list[LoggedPoint]:
    """Every point that the tracker itself has; a rank is part of the tag."""
    return [
        LoggedPoint(tag, None, *point) for tag, points in subject.points(run_id).items() for point in points
    ]


def differences(
    logged: Iterable[LoggedPoint],
    native: Iterable[LoggedPoint],
    companion: Iterable[LoggedPoint],
    resolution_ns: int,
) -> list[str]:
    """How the points of the tracker and the companion differ from what was logged; empty if they do not.

    A native point's time may be off by less than the tracker's resolution. Of an exact repeat (same tag,
    rank, step, value and time) nobody can say whether it was logged or sent twice: none is logged here.
    """
    wanted = _by_key(logged)
    found: list[str] = []
    for key, times in _by_key(companion).items():
        for time in times:
            if time in wanted[key]:
                wanted[key].remove(time)
            else:
                found.append(f"in the companion, but not logged so, or twice: {_shown(key)} at {time}")
    natively = _by_key(native)
    for key in wanted.keys() | natively.keys():
        left, there = sorted(wanted[key]), sorted(natively[key])
        if len(left) != len(there):
            found.append(f"{_shown(key)}: {len(left)} to be there at {left}, {len(there)} are at {there}")
        elif off := [b - a for a, b in zip(left, there, strict=True) if abs(a - b) >= resolution_ns]:
            found.append(f"{_shown(key)}: time off by {off} ns")
    return sorted(found)


def _by_key(points: Iterable[LoggedPoint]) -> defaultdict[Key, list[int]]:
    keyed: defaultdict[Key, list[int]] = defaultdict(list)
    for point in points:
        keyed[point.name, point.step, _bits(point.value)].append(point.time_unix_nano)
    return keyed


def _shown(key: Key) -> str:
    value = math.nan if key[2] == b"NaN" else struct.unpack(">d", key[2])[0]
    name = repr(key[0]) if len(key[0]) < 80 else f"{key[0][:40]!r}...{key[0][-30:]!r}"
    return f"{name} step {key[1]} value {value!r}"


def check_points(
    subject: Subject,
    run_id: str,
    logged: Iterable[LoggedPoint],
    resolution_ns: int,
    besides: Collection[str] = (),
) -> None:
    """Fails unless the tracker and the companion files have exactly what was logged.

    ``besides`` are names that the tracker has as well, of measurements of the machine.
    """
    companion = companion_points(subject.files(run_id))
    native = [point for point in native_points(subject, run_id) if point.name not in besides]
    found = differences(logged, native, companion, resolution_ns)
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:40])


def blobs(subject: Subject, run_id: str) -> list[bytes]:
    """Every content that can be read back of a run: shown natively, as a file, or in a companion."""
    files = subject.files(run_id)
    lines = (line for line in companion_lines(files) if line["kind"] != "scalar")
    aside = [line["text"].encode() if "text" in line else b64decode(line["base64"]) for line in lines]
    return [*files.values(), *(media.content for media in subject.media(run_id)), *aside]


# -- records ----------------------------------------------------------------------------------------------


def picture(color: str = "red", kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    """An encoded picture."""
    buffer = io.BytesIO()
    frames = [Image.new("RGB", size, name) for name in (color, "white")]
    more: dict[str, Any] = {"save_all": True, "append_images": frames[1:]} if kind == "GIF" else {}
    frames[0].save(buffer, kind, **more)
    return buffer.getvalue()


def sound(frequency: int = 8000) -> bytes:
    """A tenth of a second as WAV."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(frequency)
        file.writeframes(b"".join(struct.pack("<h", i % 1000) for i in range(frequency // 10)))
    return buffer.getvalue()


class Sample(NamedTuple):
    """Arguments of :meth:`Script.record`."""

    kind: Kind
    tag: str = ""
    step: int | None = None
    payload: bytes | None = None
    mime_type: str = ""
    attributes: Mapping[str, Any] = {}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _histogram(size: int) -> bytes:
    limits = [-1.7e308, *(i / 7 for i in range(size - 2)), 1.7e308]
    counts = [float(i % 5) for i in range(size)]
    described = {"min": -3.0, "max": size / 7, "num": sum(counts), "sum": 1.5, "sum_squares": 2.25}
    return _json({**described, "bucket_limits": limits, "bucket_counts": counts})


def _curve(size: int) -> bytes:
    down = [float(size - i) for i in range(size)]
    rates = [(i + 1) / size for i in range(size)]
    counts = {"true_positives": down, "false_positives": down, "true_negatives": rates}
    more = {"false_negatives": rates, "precision": rates, "recall": rates[::-1], "thresholds": rates}
    return _json({**counts, **more})


CHECKPOINT: Final = {
    semconv.CHECKPOINT_PATH: "/somewhere/epoch=3-step=12.ckpt",
    semconv.CHECKPOINT_SIZE: 12345,
    semconv.CHECKPOINT_SCORE: 0.125,
    semconv.CHECKPOINT_MONITOR: "val_loss",
    semconv.CHECKPOINT_BEST: True,
}


def _mesh(**lists: list[Any]) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(members) for name, members in lists.items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


_VERTICES: Final = [[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.5]]]
_STRANGE: Final = 'a/../strange: name?*"<é> '

SAMPLES: Final[tuple[Sample, ...]] = (
    Sample("text", "note", 1, "a text: Größe\n".encode(), "text/plain"),
    Sample("text", "note", 2, b"| a | b |\n|---|---|\n| 1 | 2 |\n", "text/markdown"),
    Sample("text", _STRANGE, -5, b"", "text/plain"),
    Sample("image", "image", 1, picture(), "image/png", {semconv.WIDTH: 24, semconv.HEIGHT: 16}),
    Sample("image", "image", 2, picture("blue", "JPEG"), "image/jpeg"),
    Sample("image", "animated", 0, picture("green", "GIF"), "image/gif"),
    Sample("image", "several", 3, picture("black"), "image/png", {semconv.INDEX: 0}),
    Sample("image", "several", 3, picture("yellow"), "image/png", {semconv.INDEX: 1}),
    Sample("image", _STRANGE, 1, picture("orange"), "image/png"),
    Sample("image", "broken", 1, b"\x89PNG\r\n\x1a\n this is no picture", "image/png"),
    Sample("figure", "figure", 2**40, picture("gray", size=(200, 100)), "image/png"),
    Sample("audio", "sound", 1, sound(), "audio/wav", {semconv.SAMPLE_RATE: 8000}),
    Sample("audio", "sound", 2, b"ID3 no real sound \xff", "audio/mpeg", {semconv.SAMPLE_RATE: 44100}),
    Sample("audio", "no rate", 1, sound(16000), "audio/wav"),
    Sample("video", "video", 1, picture("purple", "GIF", (32, 32)), "image/gif"),
    Sample("video", "video", 2, b"\x00\x00\x00\x18ftypmp42 no real film \xff", "video/mp4"),
    Sample("histogram", "weights", 1, _histogram(30), "application/json"),
    Sample("histogram", "weights", 2, _histogram(1500), "application/json"),
    Sample(
        "histogram",
        "empty",
        1,
        _json({"min": 0, "max": 0, "num": 0, "sum": 0, "sum_squares": 0, "bucket_limits": []})[:-1]
        + b', "bucket_counts": []}',
        "application/json",
    ),
    Sample("histogram", _STRANGE, 1, _histogram(5), "application/json"),
    Sample("pr_curve", "curve", 1, _curve(11), "application/json"),
    Sample("pr_curve", "curve", 2, _curve(500), "application/json"),
    Sample(
        *("mesh", "mesh", 1, _mesh(vertices=_VERTICES, colors=[[[255, 0, 0]] * 3], faces=[[[0, 1, 2]]])),
        *("application/x-npz", {semconv.MESH_CONFIG: '{"camera": {"cls": "PerspectiveCamera"}}'}),
    ),
    Sample("mesh", "cloud", 2, _mesh(vertices=_VERTICES * 2), "application/x-npz"),
    Sample("embedding", "words", 1, b"1\t2\n3\t4\n", "text/plain", {semconv.FILE_NAME: "tensors.tsv"}),
    Sample("embedding", "words", 1, b"a\nb\n", "text/plain", {semconv.FILE_NAME: "metadata.tsv"}),
    Sample("embedding", "words", 1, picture("pink"), "image/png", {semconv.FILE_NAME: "sprite.png"}),
    Sample("artifact", "", None, b"\x80\x04 any bytes", "", {semconv.FILE_NAME: "folder/any.bin"}),
    Sample("artifact", "", None, b"strange", "text/plain", {semconv.FILE_NAME: _STRANGE}),
    Sample("artifact", "", None, b"climbs", "text/plain", {semconv.FILE_NAME: "../../../climbs"}),
    Sample("artifact", "", None, b"", "", {semconv.FILE_NAME: "empty"}),
    Sample("artifact", "tagged only", 4, b"tagged only", "text/plain"),
    Sample(
        "artifact", "", 12, b"the weights", "", {semconv.FILE_NAME: "checkpoints/last.ckpt", **CHECKPOINT}
    ),
    Sample("artifact", "", 12, None, "", CHECKPOINT),
    Sample("layout", "", None, _json({"category": [{"title": "A", "chart": []}]}), "application/json"),
    Sample("graph", "", None, b"\x0a\x03 graph", "", {semconv.GRAPH_PART: "graph_def"}),
    Sample("graph", "step1", 1, b"\x0a\x04 metadata", "", {semconv.GRAPH_PART: "run_metadata"}),
    Sample("graph", "", 1, b"\x0a\x05 more metadata", "", {semconv.GRAPH_PART: "run_metadata"}),
    Sample("environment", "", None, _json({"git": {"commit": "c0ffee"}}), "application/json"),
)
"""Every kind but ``run``, ``status``, ``params`` and ``tags``, in each form that :mod:`records` allows."""
