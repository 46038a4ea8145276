"""Each kind of record in AIM's most native form: a function a kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Record
from tracelet_otel.tracker.interface import Outcome, Problem, RecordAside
from tracelet_otel_exporters.aim import files, objects, runs, sequences
from tracelet_otel_exporters.aim.runs import AimRun
from tracelet_otel_exporters.aim.sequences import MAX_STEP, AimRow
from tracelet_otel_exporters.shared.record_content import (
    file_suffix,
    graph_file,
    json_object,
    number_attribute,
    payload_or_file,
    read_artifact,
    text_attribute,
)

Writer = Callable[[AimRun, Record], "Outcome | None"]
"""Writes a record. Returns None where AIM keeps it as it was logged."""


def _params(run: AimRun, record: Record) -> Outcome:
    reason = "AIM has no such value: it is kept as text"
    changed = runs.write_params(run.store, json_object(record))
    return Outcome(1, [Problem(name, reason) for name in changed])


def _text(run: AimRun, record: Record) -> Outcome | None:
    import aim

    try:
        return _track(run, record, "aim.text", aim.Text(record.read().decode()))
    except UnicodeDecodeError:
        return _file(run, record)


def _picture(run: AimRun, record: Record) -> Outcome | None:
    return _track(run, record, "aim.image", objects.image(record.read()))


def _audio(run: AimRun, record: Record) -> Outcome | None:
    return _track(run, record, "aim.audio", objects.audio(record.read(), record.mime_type))


def _video(run: AimRun, record: Record) -> Outcome | None:
    """AIM plays no videos, but an animated picture is a picture."""
    return (_picture if record.mime_type.startswith("image/") else _file)(run, record)


def _histogram(run: AimRun, record: Record) -> Outcome | None:
    shown = objects.distribution(json_object(record))
    return _track(run, record, "aim.distribution", shown, "AIM's bins have one width, and no sums")


def _pr_curve(run: AimRun, record: Record) -> Outcome | None:
    shown = objects.pr_curve(json_object(record), record.tag)
    return _track(run, record, "aim.figure", shown, "AIM has the curve only, without the counts")


def _file(run: AimRun, record: Record) -> None:
    """A file of a tag and a step, in a folder named after its kind."""
    index = number_attribute(record, semconv.INDEX)
    stem = f"{_folder(record)}/{record.step}-{record.time_unix_nano}{f'-{index}' if index else ''}"
    files.write(run, stem + file_suffix(record), payload_or_file(record))
    if config := record.attributes.get(semconv.MESH_CONFIG):
        files.write(run, f"{stem}.json", str(config).encode())


def _embedding(run: AimRun, record: Record) -> None:
    name = text_attribute(record, semconv.FILE_NAME) or "embedding"
    files.write(run, f"{_folder(record)}/{record.step}/{name}", payload_or_file(record))


def _artifact(run: AimRun, record: Record) -> None:
    artifact = read_artifact(record)
    if artifact.checkpoint:
        content = json.dumps(artifact.description, indent=1, default=str).encode()
        files.write(run, artifact.description_name, content)
    if artifact.has_content:
        files.write(run, artifact.name, payload_or_file(record))


def _environment(run: AimRun, record: Record) -> None:
    """In the form of AIM's own ``__system_params`` (aim/ext/utils.py); what has no place in it is ours."""
    rest = json_object(record)

    def take(name: str) -> dict[str, Any]:
        return dict(rest.pop(name)) if isinstance(rest.get(name), dict) else {}

    native: dict[str, Any] = {"packages": take("packages"), "env_variables": take("variables")}
    if git := take("git"):
        native["git_info"] = {
            "branch": git.pop("branch", None),
            "remote_origin_url": git.pop("repository", None),
            "commit": {"hash": git.pop("commit", None), "timestamp": None, "author": None},
        }
    python = take("python")
    native |= {"executable": python.pop("executable", None), "arguments": rest.pop("command", None)}
    native = {name: value for name, value in native.items() if value}
    rest |= {name: part for name, part in (("git", git), ("python", python)) if part}
    runs.write_params(run.store, {"__system_params": native, runs.OURS: {"environment": rest}})
    files.write(run, "tracelet/environment.json", payload_or_file(record))


WRITERS: Final[Mapping[str, Writer]] = {
    "params": _params,
    "tags": lambda run, record: runs.write_tags(run.store, json_object(record)),
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
    "layout": lambda run, record: files.write(
        run, "tensorboard/custom_scalars.json", payload_or_file(record)
    ),
    "graph": lambda run, record: files.write(run, graph_file(record), payload_or_file(record)),
    "environment": _environment,
}
"""By kind: what writes it. Raises OSError or ValueError where the record's content is unreadable."""


def _track(run: AimRun, record: Record, dtype: str, value: Any, loss: str = "") -> Outcome | None:
    """One value of a step in a sequence; what AIM cannot have, or has with a ``loss``, is kept exactly.

    That is in the companion file, and for a value of None without a loss in a file of its own.
    """
    if value is None and not loss:
        return _file(run, record)
    reason = loss
    if value is not None:
        reason = _show(run, record, dtype, value) or loss
    return Outcome(1, aside=[RecordAside(record, reason)] if reason else [])


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
        known = sequences.stored(run.store, sequence, [record.step]).get(record.step)
        if known is not None and known.storage["data"].load() != value.storage["data"].load():
            verdict = "repeat"
    if verdict == "repeat":
        return f"AIM keeps one value a step; step {record.step} has one already"
    run.store.commit(sequences.changes(run.store, sequence, [AimRow(record.step, value, time_us)]))
    return ""


def _folder(record: Record) -> str:
    rank = number_attribute(record, semconv.RANK)
    return f"{record.kind}/{record.tag}{f'/rank_{rank}' if rank else ''}"
