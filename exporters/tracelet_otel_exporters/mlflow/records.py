"""Each kind of record in MLflow's most native form: a function a kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Record
from tracelet_otel.tracker.interface import Outcome
from tracelet_otel_exporters.mlflow import artifacts
from tracelet_otel_exporters.mlflow import environment as mlflow_environment
from tracelet_otel_exporters.mlflow import params as mlflow_params
from tracelet_otel_exporters.mlflow.connection import Connection
from tracelet_otel_exporters.mlflow.runs import OpenRun
from tracelet_otel_exporters.shared import rendering
from tracelet_otel_exporters.shared.record_content import (
    file_suffix,
    graph_file,
    json_object,
    read_artifact,
    text_attribute,
)

Writer = Callable[[Connection, OpenRun, Record], Outcome]


def _params(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    return mlflow_params.write_params(connection, run, json_object(record))


def _tags(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    return mlflow_params.write_tags(connection, run, json_object(record))


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
        if png := draw(json_object(record)):
            artifacts.write_picture(connection, run, f"{record.kind}/", record, png)
        return Outcome(1)

    return write


def _mesh(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    path = _write_step(connection, run, record, record.read())
    if config := record.attributes.get(semconv.MESH_CONFIG):
        artifacts.write(connection, run, path.removesuffix(".npz") + ".json", str(config).encode())
    return Outcome(1)


def _embedding(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    name = artifacts.file_path(run, text_attribute(record, semconv.FILE_NAME) or "embedding")
    path = f"embedding/{artifacts.tag_path(run, record)}/{record.step}/{name}"
    artifacts.write_payload(connection, run, path, record)
    return Outcome(1)


def _artifact(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    artifact = read_artifact(record)
    if artifact.checkpoint:
        path = artifacts.file_path(run, artifact.description_name)
        artifacts.write_json(connection, run, path, artifact.description)
    if artifact.has_content:
        artifacts.write_payload(connection, run, artifacts.file_path(run, artifact.name), record)
    return Outcome(1)


def _layout(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    artifacts.write(connection, run, "tensorboard/custom_scalars.json", record.read())
    return Outcome(1)


def _graph(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    artifacts.write(connection, run, artifacts.file_path(run, graph_file(record)), record.read())
    return Outcome(1)


def _environment(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    mlflow_environment.write(connection, run, record, json_object(record))
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
    return artifacts.write_step(connection, run, folder, file_suffix(record), record, content)
