"""Each kind of record in ClearML's most native form: a function a kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Record
from tracelet_otel.tracker.interface import Outcome, RecordAside
from tracelet_otel_exporters.clearml import environment as clearml_environment
from tracelet_otel_exporters.clearml import files as clearml_files
from tracelet_otel_exporters.clearml import names as clearml_names
from tracelet_otel_exporters.clearml import plots as clearml_plots
from tracelet_otel_exporters.clearml import runs as clearml_runs
from tracelet_otel_exporters.clearml.connection import Connection, json_lines
from tracelet_otel_exporters.clearml.names import Name, clean, segment
from tracelet_otel_exporters.clearml.runs import OpenRun
from tracelet_otel_exporters.shared.params import as_text, flatten
from tracelet_otel_exporters.shared.record_content import (
    file_suffix,
    fingerprint,
    graph_file,
    json_object,
    number_attribute,
    payload_or_file,
    read_artifact,
)

MAX_TEXT: Final = 30_000
"""Characters of a text on the console; the file beside it is whole."""
MAX_PARAM: Final = 100_000
"""Characters of a parameter's value."""
NAMES: Final = "tracelet.name/"
"""Configuration objects of this prefix hold the tags of names that were cut, as JSON."""
_DIGITS: Final = 24
"""Of a record's fingerprint, in names."""

Writer = Callable[[Connection, OpenRun, Record], Outcome]
Draw = Callable[[Record, str, str], "str | None"]


def note_name(connection: Connection, run: OpenRun, name: Name, tag: str, rank: int | None) -> None:
    """Stores with the task which tag a cut name stands for."""
    item = f"{NAMES}{name.metric.rpartition('_')[2]}"
    if item in run.noted:
        return
    value = json.dumps({"metric": name.metric, "variant": name.variant, "tag": tag, "rank": rank})
    configuration = [{"name": item, "value": value, "type": "json", "description": ""}]
    clearml_runs.edit(connection, run, "edit_configuration", configuration=configuration)
    run.noted.add(item)


def _params(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    items: list[dict[str, str]] = []
    replaced: dict[str, str] = {}
    reason = ""
    for name, value in flatten(json_object(record)):
        text = clean(as_text(value))
        if len(text) > MAX_PARAM:
            reason = f"parameter {name} has more than {MAX_PARAM} characters"
            text = text[:MAX_PARAM]
        key = clean(name)
        if not key or key != name:
            reason = f"{name!r} cannot be the name of a parameter"
        if (before := run.params.get(key, text)) != text:
            replaced[key] = before  # a person looks for the newest value
        if key:
            kind = type(value).__name__
            items.append({"section": "General", "name": key, "value": text, "type": kind, "description": ""})
    if items:
        clearml_runs.edit(connection, run, "edit_hyper_params", hyperparams=items, replace_hyperparams="none")
        run.params.update((item["name"], item["value"]) for item in items)
    outcome = Outcome(1)
    if reason:
        outcome.aside.append(RecordAside(record, reason))
    if replaced:
        before = replace(record, payload=json.dumps(replaced).encode(), uri="", sha256="")
        outcome.aside.append(RecordAside(before, "values that newer ones replaced in ClearML"))
    return outcome


def _tags(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    clearml_runs.write_tags(connection, run, json_object(record))
    return Outcome(1)


def _sample(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    """A debug sample: images, sounds, videos and texts, as their exact files."""
    digest = fingerprint(record)[:_DIGITS]
    name = _name(connection, run, record)
    index = number_attribute(record, semconv.INDEX)
    variant = f"{name.variant}/{index}" if index else name.variant
    readable = f"{segment(name.metric)}_{segment(variant)}_{record.step:08d}"
    path = f"tracelet/{run.id}/metrics/{record.kind}/{readable}_{digest}{file_suffix(record)}"
    content = payload_or_file(record)
    url = clearml_files.upload(connection, path, content, record.mime_type)
    event = _event(run, record, "training_debug_image", name.metric, variant)
    connection.add_events(json_lines([{**event, "key": path, "url": url}]))
    return Outcome(1)


def _text(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    """On the console, for people, and as a file: a log event has no identity, so a retry leaves it out."""
    digest = fingerprint(record)[:_DIGITS]
    is_known = digest in run.noted or (run.is_resumed and _has_sample(connection, run, record, digest))
    outcome = _sample(connection, run, record)
    if not is_known:
        run.noted.add(digest)
        text = record.read().decode(errors="replace")
        more = "" if len(text) <= MAX_TEXT else "... (the whole text is in the debug samples)"
        event = _event(run, record, "log", "", "")
        message = clean(f"{record.tag} (step {record.step}): {text[:MAX_TEXT]}{more}")
        connection.add_events(
            json_lines([{**event, "level": "INFO", "worker": connection.worker, "msg": message}])
        )
    return outcome


def _drawn(draw: Draw) -> Writer:
    def write(connection: Connection, run: OpenRun, record: Record) -> Outcome:
        _plot(connection, run, record, draw)
        return Outcome(1)

    return write


def _mesh(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    digest = fingerprint(record)[:_DIGITS]
    stem = f"mesh/{record.tag}/{record.step}-{digest[:8]}"
    clearml_files.write_artifact(connection, run, f"{stem}.npz", payload_or_file(record), record.mime_type)
    if config := record.attributes.get(semconv.MESH_CONFIG):
        content = str(config).encode()
        clearml_files.write_artifact(connection, run, f"{stem}.json", content, "application/json")
    _plot(connection, run, record, clearml_plots.mesh)
    return Outcome(1)


def _embedding(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    file = str(record.attributes.get(semconv.FILE_NAME) or "embedding")
    name = f"embedding/{record.tag}/{record.step}/{file}"
    clearml_files.write_artifact(connection, run, name, payload_or_file(record), record.mime_type)
    return Outcome(1)


def _artifact(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    artifact = read_artifact(record)
    name, about = artifact.name, artifact.checkpoint
    url = ""
    if artifact.has_content:
        content = payload_or_file(record)
        url = clearml_files.write_artifact(connection, run, name, content, record.mime_type, about)
    if about:
        text = json.dumps(artifact.description, default=str).encode()
        clearml_files.write_artifact(connection, run, f"{name}.json", text, "application/json")
        # Not uploaded, it is where it is: ClearML lists local models by such an address too.
        uri = url or f"file://{about.get('path', name)}"
        clearml_files.write_model(connection, run, clean(name), clean(uri), record.step, about)
    return Outcome(1)


def _layout(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    name = "tensorboard/custom_scalars.json"
    clearml_files.write_artifact(connection, run, name, record.read(), "application/json")
    return Outcome(1)


def _graph(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    clearml_files.write_artifact(connection, run, graph_file(record), payload_or_file(record))
    return Outcome(1)


def _environment(connection: Connection, run: OpenRun, record: Record) -> Outcome:
    clearml_environment.write(connection, run, json_object(record))
    clearml_files.write_artifact(
        connection, run, "tracelet/environment.json", record.read(), "application/json"
    )
    return Outcome(1)


WRITERS: Final[Mapping[str, Writer]] = {
    "params": _params,
    "tags": _tags,
    "text": _text,
    "image": _sample,
    "figure": _sample,
    "audio": _sample,
    "video": _sample,
    "histogram": _drawn(clearml_plots.histogram),
    "pr_curve": _drawn(clearml_plots.pr_curve),
    "mesh": _mesh,
    "embedding": _embedding,
    "artifact": _artifact,
    "layout": _layout,
    "graph": _graph,
    "environment": _environment,
}
"""By kind: what writes it. Raises OSError or ValueError where the record's content is unreadable."""


def _plot(connection: Connection, run: OpenRun, record: Record, draw: Draw) -> None:
    name = _name(connection, run, record)
    plot = draw(record, clean(record.tag), name.variant)
    if plot is None:
        return
    event = _event(run, record, "plot", name.metric, name.variant)
    key = f"{record.kind}/{fingerprint(record)[:_DIGITS]}"
    connection.add_events(json_lines([{**event, "key": key, "plot_str": plot}]))


def _name(connection: Connection, run: OpenRun, record: Record) -> Name:
    name = clearml_names.encode(record.tag)
    if not name.is_exact:
        note_name(connection, run, name, record.tag, None)
    return name


def _event(run: OpenRun, record: Record, kind: str, metric: str, variant: str) -> dict[str, Any]:
    if not -(2**63) <= record.step < 2**63:
        raise ValueError(f"step {record.step} is not a 64-bit integer")
    time_ms = max(0, (record.time_unix_nano + 500_000) // 1_000_000)
    event: dict[str, Any] = {"type": kind, "task": run.id, "iter": record.step, "timestamp": time_ms}
    return {**event, "metric": metric, "variant": variant} if metric or variant else event


def _has_sample(connection: Connection, run: OpenRun, record: Record, digest: str) -> bool:
    name = clearml_names.encode(record.tag)
    metrics = [{"metric": name.metric, "variants": [name.variant]}]
    scroll: str | None = None
    while True:
        page = connection.call(
            *("events", "get_task_events"),
            task=run.id,
            event_type="training_debug_image",
            metrics=metrics,
            batch_size=clearml_runs.PAGE,
            scroll_id=scroll,
        )
        events = page.get("events") or ()
        if any(digest in str(event.get("key")) for event in events):
            return True
        if len(events) < clearml_runs.PAGE:
            return False
        scroll = page.get("scroll_id")
