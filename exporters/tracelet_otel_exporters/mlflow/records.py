"""Each kind of record in MLflow's most native form: a function a kind."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Record
from tracelet_otel.tracker.interface import Outcome
from tracelet_otel_exporters.mlflow import artifacts
from tracelet_otel_exporters.mlflow import environment as mlflow_environment
from tracelet_otel_exporters.mlflow import params as mlflow_params
from tracelet_otel_exporters.mlflow.connection import Connection
from tracelet_otel_exporters.mlflow.runs import OpenRun
from tracelet_otel_exporters.shared import rendering

_SUFFIXES: Final[Mapping[str, str]] = {
    "text/plain": ".txt",
    "text/markdown": ".md",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/mpeg": ".mp3",
    "audio/ogg": ".ogg",
    "audio/flac": ".flac",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "application/json": ".json",
    "application/x-npz": ".npz",
}
_FALLBACKS: Final[Mapping[str, str]] = {
    "text": ".txt",
    "image": ".png",
    "figure": ".png",
    "audio": ".wav",
    "video": ".gif",
    "histogram": ".json",
    "pr_curve": ".json",
    "mesh": ".npz",
}

Writer = Callable[[Connection, OpenRun, Record], Outcome]


def _params(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    return mlflow_params.write_params(connection, run, _object(record))


def _tags(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    return mlflow_params.write_tags(connection, run, _object(record))


def _file(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    """A file of a tag and a step, in a folder named after its kind."""
    _write_step(connection, run, record, record.read())
    return Outcome(1)


def _picture(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    content = record.read()
    shown = artifacts.write_picture(connection, run, "", record, content)
    if not shown or record.mime_type not in ("image/png", ""):
        _write_step(connection, run, record, content)  # what the charts cannot hold exactly
    return Outcome(1)


def _drawn(draw: Callable[[Mapping[str, Any]], bytes | None]) -> Writer:
    def write(connection: Connection, run: OpenRun, record: Record) -> Outcome:
        content = record.read()
        _write_step(connection, run, record, content)
        if png := draw(_object(record)):
            artifacts.write_picture(connection, run, f"{record.kind}/", record, png)
        return Outcome(1)

    return write


def _mesh(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    path = _write_step(connection, run, record, record.read())
    if config := record.attributes.get(semconv.MESH_CONFIG):
        artifacts.write(connection, run, path.removesuffix(".npz") + ".json", str(config).encode())
    return Outcome(1)


def _embedding(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    name = artifacts.file_path(run, _text(record, semconv.FILE_NAME) or "embedding")
    path = f"embedding/{artifacts.tag_path(run, record)}/{record.step}/{name}"
    artifacts.write_payload(connection, run, path, record)
    return Outcome(1)


def _artifact(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    checkpoint = {
        name.removeprefix("tracelet.checkpoint."): value
        for name, value in record.attributes.items()
        if name.startswith("tracelet.checkpoint.")
    }
    name = _text(record, semconv.FILE_NAME)
    if checkpoint:
        name = name or posixpath.basename(str(checkpoint.get("path", ""))) or "checkpoint"
        about = {"step": record.step, "time_unix_nano": record.time_unix_nano, **checkpoint}
        path = artifacts.file_path(run, name)
        folder = "" if path.startswith("checkpoints/") else "checkpoints/"
        artifacts.write_json(connection, run, f"{folder}{path}.json", about)
    if record.payload is not None or record.uri:
        path = artifacts.file_path(run, name or record.tag or "artifact")
        artifacts.write_payload(connection, run, path, record)
    return Outcome(1)


def _layout(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    artifacts.write(connection, run, "tensorboard/custom_scalars.json", record.read())
    return Outcome(1)


def _graph(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    if _text(record, semconv.GRAPH_PART) != "run_metadata":
        artifacts.write(connection, run, "tensorboard/graph.pb", record.read())
    elif record.tag:
        path = f"tensorboard/run_metadata/{artifacts.tag_path(run, record)}.pb"
        artifacts.write(connection, run, path, record.read())
    else:
        artifacts.write(connection, run, "tensorboard/run_metadata.pb", record.read())
    return Outcome(1)


def _environment(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    mlflow_environment.write(connection, run, record, _object(record))
    return Outcome(1)


WRITERS: Final[Mapping[str, Writer]] = {
    "params": _params,
    "tags": _tags,
    "text": _file,
    "image": _picture,
    "figure": _picture,
    "audio": _file,
    "video": _file,
    "histogram": _drawn(rendering.histogram_png),
    "pr_curve": _drawn(rendering.pr_curve_png),
    "mesh": _mesh,
    "embedding": _embedding,
    "artifact": _artifact,
    "layout": _layout,
    "graph": _graph,
    "environment": _environment,
}
"""By kind: what writes it. Raises OSError or ValueError where the record's content is unreadable."""


def _write_step(connection: Connection, run: OpenRun, record: Record, content: bytes) -> str:
    folder = f"{record.kind}/{artifacts.tag_path(run, record)}"
    suffix = _SUFFIXES.get(record.mime_type) or _FALLBACKS.get(record.kind, ".bin")
    return artifacts.write_step(connection, run, folder, suffix, record, content)


def _object(record: Record) -> Mapping[str, Any]:
    value: object = json.loads(record.read())
    if not isinstance(value, dict):
        raise ValueError(f"the payload of a {record.kind} record is not a JSON object")
    return cast("dict[str, Any]", value)


def _text(record: Record, attribute: str) -> str:
    value = record.attributes.get(attribute)
    return value if isinstance(value, str) else ""
