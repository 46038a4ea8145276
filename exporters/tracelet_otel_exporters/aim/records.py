"""Each kind of record in AIM's most native form: a function a kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Record
from tracelet_otel.tracker.interface import Outcome, Problem, RecordAside
from tracelet_otel_exporters.aim import environment, files, objects, runs, sequences
from tracelet_otel_exporters.aim.runs import AimRun
from tracelet_otel_exporters.aim.sequences import MAX_STEP, Row
from tracelet_otel_exporters.shared.record_content import (
    file_suffix,
    graph_file,
    json_object,
    number_attribute,
    read_artifact,
    text_attribute,
)

Writer = Callable[[AimRun, Record], Outcome]


def _params(run: AimRun, record: Record) -> Outcome:
    reason = "AIM has no such value: it is kept as text"
    changed = runs.write_params(run.store, json_object(record))
    return Outcome(1, [Problem(name, reason) for name in changed])


def _tags(run: AimRun, record: Record) -> Outcome:
    runs.write_tags(run.store, json_object(record))
    return Outcome(1)


def _text(run: AimRun, record: Record) -> Outcome:
    content = record.read()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return _file(run, record)
    return _track(run, record, "aim.text", objects.text(text))


def _picture(run: AimRun, record: Record) -> Outcome:
    shown = objects.image(record.read())
    return _file(run, record) if shown is None else _track(run, record, "aim.image", shown)


def _audio(run: AimRun, record: Record) -> Outcome:
    shown = objects.audio(record.read(), record.mime_type)
    return _file(run, record) if shown is None else _track(run, record, "aim.audio", shown)


def _video(run: AimRun, record: Record) -> Outcome:
    """AIM plays no videos, but an animated picture is a picture."""
    return (_picture if record.mime_type.startswith("image/") else _file)(run, record)


def _histogram(run: AimRun, record: Record) -> Outcome:
    shown = objects.distribution(json_object(record))
    return _approximate(run, record, "aim.distribution", shown, "AIM's bins have one width, and no sums")


def _pr_curve(run: AimRun, record: Record) -> Outcome:
    shown = objects.pr_curve(json_object(record), record.tag)
    return _approximate(run, record, "aim.figure", shown, "AIM has the curve only, without the counts")


def _file(run: AimRun, record: Record) -> Outcome:
    """A file of a tag and a step, in a folder named after its kind."""
    suffix = file_suffix(record)
    name = f"{record.kind}/{_tag(record)}/{record.step}-{record.time_unix_nano}{_index(record)}{suffix}"
    files.write_payload(run, name, record)
    if config := record.attributes.get(semconv.MESH_CONFIG):
        files.write(run, name.removesuffix(suffix) + ".json", str(config).encode())
    return Outcome(1)


def _embedding(run: AimRun, record: Record) -> Outcome:
    name = text_attribute(record, semconv.FILE_NAME) or "embedding"
    return _store(run, record, f"embedding/{_tag(record)}/{record.step}/{name}")


def _artifact(run: AimRun, record: Record) -> Outcome:
    artifact = read_artifact(record)
    if artifact.checkpoint:
        content = json.dumps(artifact.description, indent=1, default=str).encode()
        files.write(run, artifact.description_name, content)
    if artifact.has_content:
        files.write_payload(run, artifact.name, record)
    return Outcome(1)


def _store(run: AimRun, record: Record, name: str) -> Outcome:
    files.write_payload(run, name, record)
    return Outcome(1)


def _environment(run: AimRun, record: Record) -> Outcome:
    native, rest = environment.system_params(json_object(record))
    runs.write_params(run.store, {"__system_params": native, runs.OURS: {"environment": rest}})
    files.write_payload(run, "tracelet/environment.json", record)
    return Outcome(1)


WRITERS: Final[Mapping[str, Writer]] = {
    "params": _params,
    "tags": _tags,
    "text": _text,
    "image": _picture,
    "figure": _picture,
    "audio": _audio,
    "video": _video,
    "histogram": _histogram,
    "pr_curve": _pr_curve,
    "mesh": _file,
    "embedding": _embedding,
    "artifact": _artifact,
    "layout": lambda run, record: _store(run, record, "tensorboard/custom_scalars.json"),
    "graph": lambda run, record: _store(run, record, graph_file(record)),
    "environment": _environment,
}
"""By kind: what writes it. Raises OSError or ValueError where the record's content is unreadable."""


def _track(run: AimRun, record: Record, dtype: str, value: Any) -> Outcome:
    """One value of a step in a sequence; a second one of the same step goes into the companion file."""
    reason = _show(run, record, dtype, value)
    return Outcome(1, aside=[RecordAside(record, reason)] if reason else [])


def _approximate(run: AimRun, record: Record, dtype: str, value: Any, reason: str) -> Outcome:
    """Shown as well as AIM can, and exact in the companion file."""
    if value is not None:
        _show(run, record, dtype, value)
    return Outcome(1, aside=[RecordAside(record, reason)])


def _show(run: AimRun, record: Record, dtype: str, value: Any) -> str:
    """Writes a value; returns why AIM cannot have it, or nothing."""
    if not 0 <= record.step < MAX_STEP:
        return "AIM shows no objects of negative steps"
    name, context = sequences.name_and_context(record.tag, number_attribute(record, semconv.RANK))
    if index := number_attribute(record, semconv.INDEX):
        context = {**context, "index": index}
    sequence = run.sequence(name, context, dtype, record.kind)
    time_us = (record.time_unix_nano + 500) // 1000
    verdict = sequence.steps.add(record.step, time_us)
    if verdict == "same":
        known = sequences.stored(run.store, sequence, [record.step], {}).get(record.step)
        if known is not None and known.storage["data"].load() != value.storage["data"].load():
            verdict = "repeat"
    if verdict == "repeat":
        return f"AIM keeps one value a step; step {record.step} has one already"
    run.store.commit(sequences.changes(run.store, sequence, [Row(record.step, value, time_us)]))
    return ""


def _tag(record: Record) -> str:
    rank = number_attribute(record, semconv.RANK)
    return f"{record.tag}/rank_{rank}" if rank else record.tag


def _index(record: Record) -> str:
    index = number_attribute(record, semconv.INDEX)
    return f"-{index}" if index else ""
