"""Each kind of record in W&B's most native form: a function a kind.

Media keep their exact bytes: W&B gets files, never arrays, which it would encode anew.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Record
from tracelet_otel.tracker.interface import Outcome, Problem, RecordAside
from tracelet_otel_exporters.shared.environment_record import requirements
from tracelet_otel_exporters.shared.record_content import (
    file_suffix,
    fingerprint,
    graph_file,
    json_object,
    number_attribute,
    read_artifact,
    text_attribute,
)
from tracelet_otel_exporters.wandb import environment, messages, names, plots, private
from tracelet_otel_exporters.wandb.files import announce, store_bytes, store_file, store_payload
from tracelet_otel_exporters.wandb.runs import WandbRun

Writer = Callable[[WandbRun, Record], Outcome]


def log_media(run: WandbRun, record: Record, value: Any, key: str | None = None) -> None:
    """Logs one of W&B's media, in a row of its own with the record's step and time."""
    if key is None:
        key = media_key(run, record)
    run.wandb_run.log(
        {key: value, names.STEP: record.step, "_timestamp": record.time_unix_nano / 1_000_000_000}
    )


def media_key(run: WandbRun, record: Record) -> str:
    """The key of the record's tag, rank and place among several that were logged at once."""
    rank, index = number_attribute(record, semconv.RANK), number_attribute(record, semconv.INDEX)
    key = names.media_key(record.tag, rank, index)
    original = "/".join([record.tag, *([str(index)] if index else []), *([f"rank_{rank}"] if rank else [])])
    run.note("media", key, original)
    return key


def _params(run: WandbRun, record: Record) -> Outcome:
    params = json_object(record)
    encoded: dict[str, Any] = {}
    for name, value in params.items():
        key = names.config_key(name)
        run.note("params", key, name)
        encoded[key] = _finite(value)
    run.wandb_run.config.update(encoded, allow_val_change=True)
    return Outcome(1)


def _tags(run: WandbRun, record: Record) -> Outcome:
    tags = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in json_object(record).items()
    }
    run.set_tags(tags)
    return Outcome(1)


def _text(run: WandbRun, record: Record) -> Outcome:
    content = record.read()
    key = media_key(run, record)
    store_bytes(run, f"text/{key}/{step_name(record)}{file_suffix(record)}", content)
    text = html.escape(content.decode(errors="replace"), quote=False)
    page = f'<pre style="white-space: pre-wrap">{text}</pre>'
    log_media(run, record, _library().Html(page, inject=False), key)
    return Outcome(1)


def _media(make: Callable[[str], Any]) -> Writer:
    """For a kind whose files W&B shows as they are; one that it cannot read is only kept as a file."""

    def write(run: WandbRun, record: Record) -> Outcome:
        suffix = file_suffix(record)
        content = record.read()
        key = media_key(run, record)
        with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
            path = Path(folder, f"content{suffix}")
            path.write_bytes(content)
            try:
                value = make(str(path))
            except Exception as error:  # Pillow's and W&B's many types
                name = f"{record.kind}/{key}/{step_name(record)}{suffix}"
                store_file(run, name, path)
                return Outcome(1, [Problem(record.tag, f"W&B shows it only as a file: {error}")])
            log_media(run, record, value, key)  # copies the file
        return Outcome(1)

    return write


def _image(path: str) -> Any:
    image = _library().Image.__new__(_library().Image)

    def free() -> None:
        if (opened := private.PILLOW_IMAGE.get(image)) is not None:
            opened.close()  # Pillow keeps an animation's file open, and W&B's own does not close it
            private.PILLOW_IMAGE.set(None, image)

    private.FREE_IMAGE.set(free, image)
    image.__init__(path)
    return image


def _library() -> Any:
    import wandb

    return wandb


def _histogram(run: WandbRun, record: Record) -> Outcome:
    histogram = plots.histogram(json_object(record))
    if histogram is None:
        return Outcome(1, aside=[RecordAside(record, "W&B shows no histogram without buckets")])
    log_media(run, record, histogram)
    reason = f"W&B keeps at most {plots.MAX_BINS} bins, and of sums and outer limits nothing"
    return Outcome(1, aside=[RecordAside(record, reason)])


def _pr_curve(run: WandbRun, record: Record) -> Outcome:
    table = plots.pr_curve(json_object(record))
    if table is not None:
        _log_chart(run, record, table)
    return Outcome(
        1, aside=[RecordAside(record, "W&B has a table and a chart of it, and not all of its own")]
    )


def _log_chart(run: WandbRun, record: Record, table: dict[str, Any]) -> None:
    """W&B's line chart over a table; logging a ``wandb.Table`` would make an artifact of each one as well."""
    key = media_key(run, record)
    empty = _library().Table(columns=table["columns"], data=[])
    chart = _library().plot.line(empty, x="recall", y="precision", title=record.tag)
    chart.set_key(key)
    content = json.dumps(table).encode()
    digest = hashlib.sha256(content).hexdigest()
    path = f"media/table/{chart.spec.table_key}_{step_name(record)}_{digest[:20]}.table.json"
    store_bytes(run, path, content)
    about = {"_type": "table-file", "path": names.file(path), "sha256": digest, "size": len(content)}
    about |= {"ncols": len(table["columns"]), "nrows": len(table["data"])}
    run.core.publish([messages.config(run.id, chart.spec.config_key, chart.spec.config_value)])
    log_media(run, record, about, chart.spec.table_key)


def _mesh(run: WandbRun, record: Record) -> Outcome:
    content = record.read()
    key = media_key(run, record)
    stem = f"mesh/{key}/{step_name(record)}"
    store_bytes(run, f"{stem}.npz", content)
    if config := record.attributes.get(semconv.MESH_CONFIG):
        store_bytes(run, f"{stem}.json", str(config).encode())
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        for number, shape in enumerate(plots.meshes(content)):
            path = Path(folder, f"{number}.{shape.suffix}")
            path.write_text(shape.text, encoding="utf-8")
            log_media(run, record, _library().Object3D(str(path)), f"{key}/{number}" if number else key)
    return Outcome(1)


def _embedding(run: WandbRun, record: Record) -> Outcome:
    name = text_attribute(record, semconv.FILE_NAME) or "embedding"
    key = media_key(run, record)
    return _store(run, record, f"embedding/{key}/{record.step}/{name}")


def _artifact(run: WandbRun, record: Record) -> Outcome:
    artifact = read_artifact(record)
    if artifact.checkpoint:
        about = json.dumps(artifact.description, indent=1, ensure_ascii=False, default=str)
        store_bytes(run, artifact.description_name, about.encode(errors="surrogatepass"))
    if artifact.has_content:
        store_payload(run, record, artifact.name)
    return Outcome(1)


def _store(run: WandbRun, record: Record, name: str) -> Outcome:
    store_payload(run, record, name)
    return Outcome(1)


def _environment(run: WandbRun, record: Record) -> Outcome:
    described = json_object(record)
    store_payload(run, record, "tracelet/environment.json")
    about = environment.metadata(described, record.time_unix_nano)
    _store_own(run, environment.METADATA_FILE, json.dumps(about, indent=2))
    if packages := requirements(described):
        _store_own(run, environment.PACKAGES_FILE, packages)
    return Outcome(1)


def _store_own(run: WandbRun, name: str, text: str) -> None:
    """One of the files that W&B itself would have written, and shows in places of their own."""
    (run.folder / name).write_text(text, encoding="utf-8")
    announce(run, name)


ROWS: Final = frozenset({"text", "image", "figure", "audio", "video", "histogram", "pr_curve", "mesh"})
"""Kinds that are rows of the history: logged again, they would be there twice."""
WRITERS: Final[Mapping[str, Writer]] = {
    "params": _params,
    "tags": _tags,
    "text": _text,
    "image": _media(_image),
    "figure": _media(_image),
    "audio": _media(lambda path: _library().Audio(path)),
    "video": _media(lambda path: _library().Video(path)),
    "histogram": _histogram,
    "pr_curve": _pr_curve,
    "mesh": _mesh,
    "embedding": _embedding,
    "artifact": _artifact,
    "layout": lambda run, record: _store(run, record, "tensorboard/custom_scalars.json"),
    "graph": lambda run, record: _store(run, record, graph_file(record)),
    "environment": _environment,
}
"""By kind: what writes it. Raises OSError or ValueError where the record's content is unreadable."""


def row_id(record: Record) -> str:
    """What identifies a record that is a row of the history: eight characters, 48 bits."""
    return base64.urlsafe_b64encode(bytes.fromhex(fingerprint(record)[:12])).decode()


def step_name(record: Record) -> str:
    """A file's name for a step; a further record of the same step has its time in it."""
    return f"{record.step}-{record.time_unix_nano}"


def _finite(value: Any) -> Any:
    """W&B's config is JSON in the strict sense: NaN and infinities by name."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(member) for name, member in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_finite(member) for member in cast("list[Any]", value)]
    return value
