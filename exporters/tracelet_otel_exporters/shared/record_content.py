"""What trackers read out of a record: its identity, payload, attributes and file names."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Record

_CHECKPOINT: Final = "tracelet.checkpoint."
_CHUNK: Final = 1 << 20
_SUFFIXES: Final[Mapping[str, str]] = {
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/html": ".html",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
    "image/svg+xml": ".svg",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/mpeg": ".mp3",
    "audio/ogg": ".ogg",
    "audio/flac": ".flac",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "video/ogg": ".ogg",
    "application/json": ".json",
    "application/x-npz": ".npz",
}
_SUFFIXES_BY_KIND: Final[Mapping[str, str]] = {
    "text": ".txt",
    "image": ".png",
    "figure": ".png",
    "audio": ".wav",
    "video": ".gif",
    "histogram": ".json",
    "pr_curve": ".json",
    "mesh": ".npz",
}


def file_suffix(record: Record) -> str:
    """The suffix of a file with the record's payload: by its MIME type, else what is usual for its kind."""
    return _SUFFIXES.get(record.mime_type) or _SUFFIXES_BY_KIND.get(record.kind, ".bin")


def json_object(record: Record) -> dict[str, Any]:
    """The payload of a record that is a JSON object.

    Raises:
        OSError: the media file cannot be read.
        ValueError: the payload is not a JSON object.
    """
    value: object = json.loads(record.read())
    if not isinstance(value, dict):
        raise ValueError(f"the payload of a {record.kind} record is not a JSON object")
    return cast("dict[str, Any]", value)


def text_attribute(record: Record, attribute: str) -> str:
    """An attribute that is text, or nothing."""
    value = record.attributes.get(attribute)
    return value if isinstance(value, str) else ""


def number_attribute(record: Record, attribute: str) -> int:
    """An attribute that is a positive integer, such as rank and index, or 0."""
    value = record.attributes.get(attribute)
    return value if isinstance(value, int) and value > 0 else 0


def fingerprint(record: Record) -> str:
    """What identifies a record, 64 hexadecimal digits: two records that have the same are one, sent twice."""
    parts = (
        *(record.kind, record.tag, record.step, record.time_unix_nano, record.mime_type),
        *(record.attributes.get(semconv.INDEX), record.attributes.get(semconv.RANK)),
    )
    content = record.sha256 or record.uri if record.payload is None else sha256(record.payload)[0]
    return sha256(repr((*parts, content)).encode(errors="surrogatepass"))[0]


def sha256(content: bytes | Path) -> tuple[str, int]:
    """The SHA-256 of bytes or of a file, as hexadecimal digits, and the size in bytes.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), len(content)
    hashed, size = hashlib.sha256(), 0
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
            size += len(chunk)
    return hashed.hexdigest(), size


def payload_or_file(record: Record) -> bytes | Path:
    """The payload; one that is a file on this machine is not read into memory.

    Raises:
        OSError: the media file cannot be read.
        ValueError: the media file is not the one that was logged.
    """
    parts = urlsplit(record.uri)
    if record.payload is not None or not record.uri or parts.scheme not in ("", "file"):
        return record.read()
    file = Path(unquote(parts.path) if parts.scheme else record.uri)
    digest, _ = sha256(file)
    if record.sha256 not in ("", digest):
        raise ValueError(f"media file {record.uri} is not the one that was logged: its SHA-256 differs")
    return file


def graph_file(record: Record) -> str:
    """The name of the file of a graph record."""
    if text_attribute(record, semconv.GRAPH_PART) != "run_metadata":
        return "tensorboard/graph.pb"
    if not record.tag:
        return "tensorboard/run_metadata.pb"
    rank = number_attribute(record, semconv.RANK)
    return f"tensorboard/run_metadata/{record.tag}{f'/rank_{rank}' if rank else ''}.pb"


class Artifact(NamedTuple):
    """An artifact record: a file, a checkpoint, or only what is known of a checkpoint."""

    name: str
    """The file's name inside the run."""
    has_content: bool
    checkpoint: Mapping[str, object]
    """What is known of the checkpoint, such as ``path`` and ``score``; empty for another file."""
    description: Mapping[str, object]
    """The same with step and time, for a file beside the checkpoint."""

    @property
    def description_name(self) -> str:
        """The name of that file, in the folder ``checkpoints``."""
        folder = "" if self.name.startswith("checkpoints/") else "checkpoints/"
        return f"{folder}{self.name}.json"


def read_artifact(record: Record) -> Artifact:
    """Reads an artifact record."""
    checkpoint = {
        name.removeprefix(_CHECKPOINT): value
        for name, value in record.attributes.items()
        if name.startswith(_CHECKPOINT)
    }
    name = text_attribute(record, semconv.FILE_NAME)
    if checkpoint:
        name = name or posixpath.basename(str(checkpoint.get("path", ""))) or "checkpoint"
    description = {"step": record.step, "time_unix_nano": record.time_unix_nano, **checkpoint}
    has_content = record.payload is not None or bool(record.uri)
    return Artifact(name or record.tag or "artifact", has_content, checkpoint, description)
