"""Each kind of record in MLflow's most native form: a function a kind.

An environment record is in MLflow's own tags, which the run's page shows as "Source", "Created by" and the
commit, and whole as files: ``tracelet/environment.json``, the record as it is, and
``tracelet/requirements.txt``, which pip reads. Ranks above 0 and earlier attempts of a resumed run have files
of their own; the tags are those of the latest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Record
from tracelet_otel.tracker.interface import Outcome
from tracelet_otel_exporters.mlflow import artifacts, params
from tracelet_otel_exporters.mlflow.runs import MLflowRun
from tracelet_otel_exporters.shared import rendering
from tracelet_otel_exporters.shared.environment_record import part, requirements
from tracelet_otel_exporters.shared.record_content import (
    file_suffix,
    graph_file,
    json_object,
    number_attribute,
    payload_or_file,
    read_artifact,
    text_attribute,
)

Writer = Callable[[MLflowRun, Record], "Outcome | None"]
"""Returns None where all is as it was logged."""


def _file(run: MLflowRun, record: Record) -> None:
    """A file of a tag and a step, in a folder named after its kind."""
    _write_step(run, record, record.read())


def _picture(run: MLflowRun, record: Record) -> None:
    content = record.read()
    shown = artifacts.write_picture(run, "", record, content)
    if not shown or record.mime_type not in ("image/png", ""):
        _write_step(run, record, content)  # what the charts cannot hold exactly


def _drawn(draw: Callable[[Mapping[str, Any]], bytes | None]) -> Writer:
    def write(run: MLflowRun, record: Record) -> None:
        _write_step(run, record, record.read())
        if png := draw(json_object(record)):
            artifacts.write_picture(run, f"{record.kind}/", record, png)

    return write


def _mesh(run: MLflowRun, record: Record) -> None:
    path = _write_step(run, record, record.read())
    if config := record.attributes.get(semconv.MESH_CONFIG):
        artifacts.write(run, path.removesuffix(".npz") + ".json", str(config).encode())


def _embedding(run: MLflowRun, record: Record) -> None:
    name = artifacts.file_path(run, text_attribute(record, semconv.FILE_NAME) or "embedding")
    path = f"embedding/{artifacts.tag_path(run, record)}/{record.step}/{name}"
    artifacts.write(run, path, payload_or_file(record))


def _artifact(run: MLflowRun, record: Record) -> None:
    artifact = read_artifact(record)
    if artifact.checkpoint:
        artifacts.write_json(run, artifacts.file_path(run, artifact.description_name), artifact.description)
    if artifact.has_content:
        artifacts.write(run, artifacts.file_path(run, artifact.name), payload_or_file(record))


def _environment(run: MLflowRun, record: Record) -> None:
    environment = json_object(record)
    rank = number_attribute(record, semconv.RANK)
    files = {"environment.json": record.read()}
    if packages := requirements(environment):
        files["requirements.txt"] = packages.encode()
    for name, content in files.items():
        stem, _, ending = name.partition(".")
        path = f"tracelet/{stem}{f'_rank_{rank}' if rank else ''}.{ending}"
        if run.is_resumed or path in run.files:
            before = artifacts.read(run, path)
            if before is not None and before != content:
                digest = hashlib.sha256(before).hexdigest()[:16]
                artifacts.write(run, f"tracelet/{stem}-{digest}.{ending}", before)
        artifacts.write(run, path, content)
        run.files[path] = ""
    if not rank:
        run.set_tags(params.valid_tags(run, _environment_tags(environment)))


def _environment_tags(environment: Mapping[str, Any]) -> dict[str, str]:
    """By MLflow's names, see ``mlflow/utils/mlflow_tags.py``; every part of the record may be missing."""
    git, entry_point = part(environment, "git"), environment.get("entry_point")
    tags = {
        "mlflow.source.name": entry_point,
        "mlflow.source.type": "LOCAL" if entry_point else None,
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.branch": git.get("branch"),
        "mlflow.source.git.repoURL": git.get("repository"),
        "mlflow.source.git.dirty": str(git["dirty"]).lower() if "dirty" in git else None,
        "mlflow.user": part(environment, "host").get("user"),
    }
    return {name: str(value) for name, value in tags.items() if value}


WRITERS: Final[Mapping[str, Writer]] = {
    "params": lambda run, record: params.write_params(run, json_object(record)),
    "tags": lambda run, record: params.write_tags(run, json_object(record)),
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
    "layout": lambda run, record: artifacts.write(run, "tensorboard/custom_scalars.json", record.read()),
    "graph": lambda run, record: artifacts.write(
        run, artifacts.file_path(run, graph_file(record)), record.read()
    ),
    "environment": _environment,
}
"""By kind: what writes it. Raises OSError or ValueError where the record's content is unreadable."""


def _write_step(run: MLflowRun, record: Record, content: bytes) -> str:
    folder = f"{record.kind}/{artifacts.tag_path(run, record)}"
    return artifacts.write_step(run, folder, file_suffix(record), record, content)
