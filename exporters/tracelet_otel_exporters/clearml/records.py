"""Each kind of record in ClearML's most native form: a function a kind."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Record
from tracelet_otel.tracker.interface import Outcome, RecordAside
from tracelet_otel_exporters.clearml import names, plots
from tracelet_otel_exporters.clearml.files import upload, write_artifact, write_model
from tracelet_otel_exporters.clearml.names import Name, clean, segment
from tracelet_otel_exporters.clearml.runs import ClearMLRun, item, write_tags
from tracelet_otel_exporters.shared.environment_record import part, requirements
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
_GB: Final = 1024.0**3

Writer = Callable[[ClearMLRun, Record], "Outcome | None"]
"""Returns None where all is as it was logged."""
Draw = Callable[[Record, str, str], "str | None"]


def name_of(run: ClearMLRun, tag: str, rank: int | None = None) -> Name:
    """The name of a tag; what a cut one stands for is stored with the task, as a configuration object."""
    name = names.encode(tag, rank)
    key = f"tracelet.name/{name.metric.rpartition('_')[2]}"
    if not name.is_exact and key not in run.noted:
        value = json.dumps({"metric": name.metric, "variant": name.variant, "tag": tag, "rank": rank})
        configuration = [{"name": key, "value": value, "type": "json", "description": ""}]
        run.edit("edit_configuration", force=True, configuration=configuration)
        run.noted.add(key)
    return name


def _params(run: ClearMLRun, record: Record) -> Outcome:
    items: list[dict[str, str]] = []
    replaced: dict[str, str] = {}
    reason = ""
    for name, value in flatten(json_object(record)):
        key, text = clean(name), clean(as_text(value))
        if len(text) > MAX_PARAM:
            reason = f"parameter {name} has more than {MAX_PARAM} characters"
            text = text[:MAX_PARAM]
        if not key or key != name:
            reason = f"{name!r} cannot be the name of a parameter"
        if (before := run.params.get(key, text)) != text:
            replaced[key] = before  # a person looks for the newest value
        if key:
            items.append(item("General", key, text, type(value).__name__))
    if items:
        run.edit("edit_hyper_params", force=True, hyperparams=items, replace_hyperparams="none")
        run.params.update((item["name"], item["value"]) for item in items)
    outcome = Outcome(1)
    if reason:
        outcome.aside.append(RecordAside(record, reason))
    if replaced:
        before = replace(record, payload=json.dumps(replaced).encode(), uri="", sha256="")
        outcome.aside.append(RecordAside(before, "values that newer ones replaced in ClearML"))
    return outcome


def _sample(run: ClearMLRun, record: Record) -> None:
    """A debug sample: images, sounds, videos and texts, as their exact files."""
    name = name_of(run, record.tag)
    if index := number_attribute(record, semconv.INDEX):
        name = name._replace(variant=f"{name.variant}/{index}")
    readable = f"{segment(name.metric)}_{segment(name.variant)}_{record.step:08d}"
    path = f"tracelet/{run.id}/metrics/{record.kind}/{readable}_{_digest(record)}{file_suffix(record)}"
    url = upload(run.connection, path, payload_or_file(record), record.mime_type)
    _add_event(run, record, "training_debug_image", name, key=path, url=url)


def _text(run: ClearMLRun, record: Record) -> None:
    """On the console, for people, and as a file: a log event has no identity, so a retry leaves it out."""
    digest = _digest(record)
    is_known = digest in run.noted
    if run.is_resumed and not is_known:
        samples = run.events("training_debug_image", names.encode(record.tag))
        is_known = any(digest in str(event.get("key")) for event in samples)
    _sample(run, record)
    if not is_known:
        run.noted.add(digest)
        text = record.read().decode(errors="replace")
        more = "" if len(text) <= MAX_TEXT else "... (the whole text is in the debug samples)"
        message = clean(f"{record.tag} (step {record.step}): {text[:MAX_TEXT]}{more}")
        _add_event(run, record, "log", None, level="INFO", worker=run.connection.worker, msg=message)


def _plot(run: ClearMLRun, record: Record, draw: Draw) -> None:
    name = name_of(run, record.tag)
    if (plot := draw(record, clean(record.tag), name.variant)) is not None:
        _add_event(run, record, "plot", name, key=f"{record.kind}/{_digest(record)}", plot_str=plot)


def _mesh(run: ClearMLRun, record: Record) -> None:
    stem = f"mesh/{record.tag}/{record.step}-{_digest(record)[:8]}"
    write_artifact(run, f"{stem}.npz", payload_or_file(record), record.mime_type)
    if config := record.attributes.get(semconv.MESH_CONFIG):
        _json_file(run, f"{stem}.json", str(config).encode())
    _plot(run, record, plots.mesh)


def _embedding(run: ClearMLRun, record: Record) -> None:
    file = str(record.attributes.get(semconv.FILE_NAME) or "embedding")
    name = f"embedding/{record.tag}/{record.step}/{file}"
    write_artifact(run, name, payload_or_file(record), record.mime_type)


def _artifact(run: ClearMLRun, record: Record) -> None:
    artifact = read_artifact(record)
    name, about = artifact.name, artifact.checkpoint
    url = ""
    if artifact.has_content:
        url = write_artifact(run, name, payload_or_file(record), record.mime_type, about)
    if about:
        _json_file(run, f"{name}.json", json.dumps(artifact.description, default=str).encode())
        # Not uploaded, it is where it is: ClearML lists local models by such an address too.
        uri = url or f"file://{about.get('path', name)}"
        write_model(run, clean(name), clean(uri), record.step, about)


def _environment(run: ClearMLRun, record: Record) -> None:
    """In ClearML's own places, the task's script and its host panel, and whole as a file."""
    environment = json_object(record)
    if script := _script(environment):
        run.edit("edit", force=True, script=script)
    if machine := _machine(environment):
        # the whole of it is replaced, and the user's own entries are to stay
        run.edit("edit", force=True, runtime={**run.stored("runtime"), **machine})
    _json_file(run, "tracelet/environment.json", record.read())


def _script(environment: Mapping[str, Any]) -> dict[str, object]:
    git, python = part(environment, "git"), part(environment, "python")
    script: dict[str, object] = {
        "repository": git.get("repository"),
        "branch": git.get("branch"),
        "version_num": git.get("commit"),
        "entry_point": environment.get("entry_point"),
        "working_dir": environment.get("working_dir"),
        "binary": posixpath.basename(str(python.get("executable") or "")) or None,
    }
    if packages := requirements(environment, " == "):
        header = f"# Python {python['version']}\n\n" if python.get("version") else ""
        script["requirements"] = {"pip": header + packages, "conda": ""}
    return {name: value for name, value in script.items() if value}


def _machine(environment: Mapping[str, Any]) -> dict[str, object]:
    """By the names of ``clearml/utilities/resource_monitor.py: _get_machine_specs``."""
    host, python = part(environment, "host"), part(environment, "python")
    memory, gpus = host.get("memory_bytes"), environment.get("gpus") or ()
    machine: dict[str, object] = {
        "hostname": host.get("name"),
        "OS": host.get("os"),
        "cpu_cores": host.get("cpu_count"),
        "memory_gb": round(memory / _GB, 1) if isinstance(memory, (int, float)) else None,
        "python_version": python.get("version"),
        "python_exec": python.get("executable"),
        "CLI": " ".join(str(word) for word in environment.get("command") or ()),
        "gpu_count": len(gpus),
        "gpu_type": ", ".join(str(gpu.get("name", "")) for gpu in gpus),
        "gpu_memory": ", ".join(f"{round(gpu.get('memory_bytes', 0) / _GB)}GB" for gpu in gpus),
    }
    return {name: value for name, value in machine.items() if value}


def _graph(run: ClearMLRun, record: Record) -> None:
    write_artifact(run, graph_file(record), payload_or_file(record))


WRITERS: Final[Mapping[str, Writer]] = {
    "params": _params,
    "tags": lambda run, record: write_tags(run, json_object(record)),
    "text": _text,
    "image": _sample,
    "figure": _sample,
    "audio": _sample,
    "video": _sample,
    "histogram": lambda run, record: _plot(run, record, plots.histogram),
    "pr_curve": lambda run, record: _plot(run, record, plots.pr_curve),
    "mesh": _mesh,
    "embedding": _embedding,
    "artifact": _artifact,
    "layout": lambda run, record: _json_file(run, "tensorboard/custom_scalars.json", record.read()),
    "graph": _graph,
    "environment": _environment,
}
"""By kind: what writes it. Raises OSError or ValueError where the record's content is unreadable."""


def _json_file(run: ClearMLRun, name: str, content: bytes) -> None:
    write_artifact(run, name, content, "application/json")


def _digest(record: Record) -> str:
    """Enough of the record's fingerprint for names."""
    return fingerprint(record)[:24]


def _add_event(run: ClearMLRun, record: Record, kind: str, name: Name | None, **fields: str) -> None:
    if not -(2**63) <= record.step < 2**63:
        raise ValueError(f"step {record.step} is not a 64-bit integer")
    time_ms = max(0, (record.time_unix_nano + 500_000) // 1_000_000)
    place = {} if name is None else {"metric": name.metric, "variant": name.variant}
    event = {"type": kind, "task": run.id, "iter": record.step, "timestamp": time_ms, **place, **fields}
    run.connection.add_events(json.dumps(event).encode())
