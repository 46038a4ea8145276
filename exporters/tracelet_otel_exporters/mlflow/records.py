"""Each kind of record in MLflow's most native form: a function a kind.

MLflow cuts long values and never changes a parameter. What it does not hold completely is in the run's
artifacts ``tracelet/params.json`` (a list of values by parameter, oldest first) and ``tracelet/tags.json``.

An environment record is in MLflow's own tags, which the run's page shows as "Source", "Created by" and the
commit, and whole as files: ``tracelet/environment.json``, the record as it is, and
``tracelet/requirements.txt``, which pip reads. Ranks above 0 and earlier attempts of a resumed run have files
of their own; the tags are those of the latest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Record
from tracelet_otel.tracker.interface import Outcome, Problem
from tracelet_otel_exporters.mlflow import artifacts, names
from tracelet_otel_exporters.mlflow.connection import refused_ones
from tracelet_otel_exporters.mlflow.runs import MAX_PER_REQUEST, MAX_TAG_VALUE, MLflowRun
from tracelet_otel_exporters.shared import rendering
from tracelet_otel_exporters.shared.environment_record import part, requirements
from tracelet_otel_exporters.shared.params import as_text, flatten
from tracelet_otel_exporters.shared.record_content import (
    graph_file,
    json_object,
    payload_or_file,
    read_artifact,
    text_attribute,
)

MAX_VALUE: Final = 6000
"""Characters of a parameter's value."""
PARAMS_FILE: Final = "tracelet/params.json"
TAGS_FILE: Final = "tracelet/tags.json"

_VCS_TAGS: Final = {
    "vcs.ref.head.revision": "mlflow.source.git.commit",
    "vcs.ref.head.name": "mlflow.source.git.branch",
    "vcs.repository.url.full": "mlflow.source.git.repoURL",
}
"""OpenTelemetry's attributes that MLflow has tags of its own for."""

Writer = Callable[[MLflowRun, Record], "Outcome | None"]
"""Returns None where all is as it was logged."""


def _write_params(run: MLflowRun, params: Mapping[str, object]) -> Outcome:
    """Writes parameters, each on its own where MLflow refuses them together."""
    outcome = Outcome(accepted=1)

    def keep(name: str, value: object, reason: str) -> None:
        outcome.lossy.append(Problem(name, reason))
        values = run.values.setdefault(name, [])
        if value not in values:
            values.append(value)
            run.values_changed = True

    texts: dict[str, str] = {}
    for name, value in flatten(params):
        key, text = names.encode(name), as_text(value)
        run.note("params", key, name)
        if len(text) > MAX_VALUE:
            keep(name, value, f"value over {MAX_VALUE} characters is in {PARAMS_FILE}")
            text = text[:MAX_VALUE]
        if texts.setdefault(key, text) != text:
            keep(name, value, f"two values in one record; the second is in {PARAMS_FILE}")
    refused = _log(run, texts)
    for name, value in flatten(params):
        key = names.encode(name)
        if reason := refused.get(key):
            keep(name, value, f"MLflow refused it, so it is only in {PARAMS_FILE}: {reason}")
        elif run.params.get(key) not in (None, texts[key]):
            reason = f"MLflow keeps a parameter's first value; the newer one is in {PARAMS_FILE}"
            keep(name, value, reason)
    if run.values_changed:
        _write_values(run)
    return outcome


def write_tags(run: MLflowRun, tags: Mapping[str, object]) -> Outcome:
    """Writes tags; long values are cut, and whole in an artifact."""
    run.set_tags(_valid_tags(run, tags))
    lossy = [name for name in tags if name in run.long_tags]
    if lossy:
        artifacts.write_json(run, TAGS_FILE, {**artifacts.read_json(run, TAGS_FILE), **run.long_tags})
    reason = f"value over {MAX_TAG_VALUE} characters is in {TAGS_FILE}"
    return Outcome(1, [Problem(name, reason) for name in lossy])


def _valid_tags(run: MLflowRun, tags: Mapping[str, object]) -> dict[str, str]:
    """Tags as MLflow takes them; what is cut is remembered in ``run``."""
    valid: dict[str, str] = {}
    for name, value in tags.items():
        key, text = names.encode(name), str(value)
        run.note("tags", key, name)
        run.long_tags.pop(name, None)
        if len(text) > MAX_TAG_VALUE:
            run.long_tags[name] = text
        valid[key] = text[:MAX_TAG_VALUE]
        if own := _VCS_TAGS.get(name):
            valid.setdefault(own, valid[key])
    return valid


def _write_values(run: MLflowRun) -> None:
    """Writes the values that only an artifact holds, with those of earlier and other processes."""
    if run.is_resumed:
        for name, values in artifacts.read_json(run, PARAMS_FILE).items():
            if isinstance(values, list):
                before = cast("Sequence[object]", values)
                ours = run.values.get(name, [])
                run.values[name] = [*before, *(value for value in ours if value not in before)]
    artifacts.write_json(run, PARAMS_FILE, run.values)
    run.values_changed = False


def _log(run: MLflowRun, texts: Mapping[str, str]) -> dict[str, str]:
    """Logs those that MLflow does not have yet, and returns why it refused what it refused."""
    from mlflow.entities import Param

    connection = run.connection

    def log(params: Sequence[tuple[str, str]]) -> None:
        with connection.calls():
            connection.store.log_batch(run.id, [], [Param(key, text) for key, text in params], [])
        run.params.update(params)

    refused: dict[str, str] = {}
    for _ in range(2):
        new = [(key, text) for key, text in texts.items() if key not in run.params]
        pages = [new[start : start + MAX_PER_REQUEST] for start in range(0, len(new), MAX_PER_REQUEST)]
        refused = {key: reason for page in pages for (key, _), reason in refused_ones(page, log)}
        if not refused:
            break
        with connection.calls():  # another process may have logged some of them since we looked
            run.params = dict(connection.client.get_run(run.id).data.params)
    return refused


def _file(run: MLflowRun, record: Record) -> None:
    artifacts.write_step(run, record, record.read())


def _picture(run: MLflowRun, record: Record) -> None:
    content = record.read()
    shown = artifacts.write_picture(run, "", record, content)
    if not shown or record.mime_type not in ("image/png", ""):
        artifacts.write_step(run, record, content)  # what the charts cannot hold exactly


def _drawn(run: MLflowRun, record: Record, draw: Callable[[Mapping[str, Any]], bytes | None]) -> None:
    artifacts.write_step(run, record, record.read())
    if png := draw(json_object(record)):
        artifacts.write_picture(run, f"{record.kind}/", record, png)


def _mesh(run: MLflowRun, record: Record) -> None:
    path = artifacts.write_step(run, record, record.read())
    if config := record.attributes.get(semconv.MESH_CONFIG):
        artifacts.write(run, path.removesuffix(".npz") + ".json", str(config).encode())


def _embedding(run: MLflowRun, record: Record) -> None:
    name = artifacts.file_path(run, text_attribute(record, semconv.FILE_NAME) or "embedding")
    path = f"{artifacts.tag_path(run, record)}/{record.step}/{name}"
    artifacts.write(run, path, payload_or_file(record))


def _artifact(run: MLflowRun, record: Record) -> None:
    artifact = read_artifact(record)
    if artifact.checkpoint:
        artifacts.write_json(run, artifacts.file_path(run, artifact.description_name), artifact.description)
    if artifact.has_content:
        artifacts.write(run, artifacts.file_path(run, artifact.name), payload_or_file(record))


def _environment(run: MLflowRun, record: Record) -> None:
    environment = json_object(record)
    files = {"environment.json": record.read()}
    if packages := requirements(environment):
        files["requirements.txt"] = packages.encode()
    for name, content in files.items():
        stem, _, ending = name.partition(".")
        path = f"tracelet/{name}"
        if run.is_resumed or path in run.files:
            before = artifacts.read(run, path)
            if before is not None and before != content:
                digest = hashlib.sha256(before).hexdigest()[:16]
                artifacts.write(run, f"tracelet/{stem}-{digest}.{ending}", before)
        artifacts.write(run, path, content)
        run.files[path] = ""
    run.set_tags(_valid_tags(run, _environment_tags(environment)))


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
    "params": lambda run, record: _write_params(run, json_object(record)),
    "tags": lambda run, record: write_tags(run, json_object(record)),
    "text": _file,
    "image": _picture,
    "figure": _picture,
    "audio": _file,
    "video": _file,
    "histogram": lambda run, record: _drawn(run, record, rendering.histogram_png),
    "pr_curve": lambda run, record: _drawn(run, record, rendering.pr_curve_png),
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
