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
from tracelet_otel_exporters.wandb import environment as wandb_environment
from tracelet_otel_exporters.wandb import names as wandb_names
from tracelet_otel_exporters.wandb import plots as wandb_plots
from tracelet_otel_exporters.wandb import runs as wandb_runs
from tracelet_otel_exporters.wandb.files import store_bytes, store_file, store_json, store_payload
from tracelet_otel_exporters.wandb.runs import OpenRun
from tracelet_otel_exporters.wandb.session import Session

Writer = Callable[[Session, OpenRun, Record], Outcome]


def log_media(opened: OpenRun, record: Record, value: Any, key: str | None = None) -> None:
    """Logs one of W&B's media, in a row of its own with the record's step and time."""
    if key is None:
        key = media_key(opened, record)
    opened.run.log(
        {key: value, wandb_names.STEP: record.step, "_timestamp": record.time_unix_nano / 1_000_000_000}
    )


def media_key(opened: OpenRun, record: Record) -> str:
    """The key of the record's tag, rank and place among several that were logged at once."""
    rank, index = number_attribute(record, semconv.RANK), number_attribute(record, semconv.INDEX)
    key = wandb_names.media_key(record.tag, rank, index)
    original = "/".join([record.tag, *([str(index)] if index else []), *([f"rank_{rank}"] if rank else [])])
    opened.note("media", key, original)
    return key


def _params(session: Session, opened: OpenRun, record: Record) -> Outcome:
    params = json_object(record)
    encoded: dict[str, Any] = {}
    for name, value in params.items():
        key = wandb_names.config_key(name)
        opened.note("params", key, name)
        encoded[key] = _finite(value)
    opened.run.config.update(encoded, allow_val_change=True)
    return Outcome(1)


def _tags(session: Session, opened: OpenRun, record: Record) -> Outcome:
    tags = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in json_object(record).items()
    }
    wandb_runs.set_tags(session, opened, tags)
    return Outcome(1)


def _text(session: Session, opened: OpenRun, record: Record) -> Outcome:
    import wandb

    content = record.read()
    key = media_key(opened, record)
    store_bytes(session, opened, f"text/{key}/{step_name(record)}{file_suffix(record)}", content)
    text = html.escape(content.decode(errors="replace"), quote=False)
    page = f'<pre style="white-space: pre-wrap">{text}</pre>'
    log_media(opened, record, wandb.Html(page, inject=False), key)
    return Outcome(1)


def _media(make: Callable[[str], Any]) -> Writer:
    """A kind of which W&B shows the file as it is; one that it cannot read is kept as a file."""

    def write(session: Session, opened: OpenRun, record: Record) -> Outcome:
        suffix = file_suffix(record)
        content = record.read()
        key = media_key(opened, record)
        with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
            path = Path(folder, f"content{suffix}")
            path.write_bytes(content)
            try:
                value = make(str(path))
            except Exception as error:  # Pillow's and W&B's many types
                name = f"{record.kind}/{key}/{step_name(record)}{suffix}"
                store_file(session, opened, name, path)
                return Outcome(1, [Problem(record.tag, f"W&B shows it only as a file: {error}")])
            log_media(opened, record, value, key)  # copies the file
        return Outcome(1)

    return write


def _image(path: str) -> Any:
    import wandb

    image: Any = wandb.Image.__new__(wandb.Image)

    def free() -> None:
        if image._image is not None:
            image._image.close()  # Pillow keeps an animation's file open, and W&B's own does not close it
            image._image = None

    image._free_ram = free
    image.__init__(path)
    return image


def _audio(path: str) -> Any:
    import wandb

    return wandb.Audio(path)


def _video(path: str) -> Any:
    import wandb

    return wandb.Video(path)


def _histogram(session: Session, opened: OpenRun, record: Record) -> Outcome:
    histogram = wandb_plots.histogram(json_object(record))
    if histogram is None:
        return Outcome(1, aside=[RecordAside(record, "W&B shows no histogram without buckets")])
    log_media(opened, record, histogram)
    reason = f"W&B keeps at most {wandb_plots.MAX_BINS} bins, and of sums and outer limits nothing"
    return Outcome(1, aside=[RecordAside(record, reason)])


def _pr_curve(session: Session, opened: OpenRun, record: Record) -> Outcome:
    table = wandb_plots.pr_curve(json_object(record))
    if table is not None:
        _log_chart(session, opened, record, table)
    return Outcome(
        1, aside=[RecordAside(record, "W&B has a table and a chart of it, and not all of its own")]
    )


def _log_chart(session: Session, opened: OpenRun, record: Record, table: dict[str, Any]) -> None:
    """W&B's line chart over a table; logging a ``wandb.Table`` would make an artifact of each one as well."""
    import wandb

    key = media_key(opened, record)
    empty: Any = wandb.Table(columns=table["columns"], data=[])
    chart: Any = wandb.plot.line(empty, x="recall", y="precision", title=record.tag)
    chart.set_key(key)
    content = json.dumps(table).encode()
    digest = hashlib.sha256(content).hexdigest()
    path = f"media/table/{chart.spec.table_key}_{step_name(record)}_{digest[:20]}.table.json"
    store_bytes(session, opened, path, content)
    about = {"_type": "table-file", "path": wandb_names.file(path), "sha256": digest, "size": len(content)}
    about |= {"ncols": len(table["columns"]), "nrows": len(table["data"])}
    opened.run._config_callback(key=chart.spec.config_key, val=chart.spec.config_value)
    log_media(opened, record, about, chart.spec.table_key)


def _mesh(session: Session, opened: OpenRun, record: Record) -> Outcome:
    import wandb

    content = record.read()
    key = media_key(opened, record)
    stem = f"mesh/{key}/{step_name(record)}"
    store_bytes(session, opened, f"{stem}.npz", content)
    if config := record.attributes.get(semconv.MESH_CONFIG):
        store_bytes(session, opened, f"{stem}.json", str(config).encode())
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        for number, shape in enumerate(wandb_plots.meshes(content)):
            path = Path(folder, f"{number}.{shape.suffix}")
            path.write_text(shape.text, encoding="utf-8")
            log_media(opened, record, wandb.Object3D(str(path)), f"{key}/{number}" if number else key)
    return Outcome(1)


def _embedding(session: Session, opened: OpenRun, record: Record) -> Outcome:
    name = text_attribute(record, semconv.FILE_NAME) or "embedding"
    key = media_key(opened, record)
    store_payload(session, opened, record, f"embedding/{key}/{record.step}/{name}")
    return Outcome(1)


def _artifact(session: Session, opened: OpenRun, record: Record) -> Outcome:
    artifact = read_artifact(record)
    if artifact.checkpoint:
        store_json(session, opened, artifact.description_name, artifact.description)
    if artifact.has_content:
        store_payload(session, opened, record, artifact.name)
    return Outcome(1)


def _layout(session: Session, opened: OpenRun, record: Record) -> Outcome:
    store_payload(session, opened, record, "tensorboard/custom_scalars.json")
    return Outcome(1)


def _graph(session: Session, opened: OpenRun, record: Record) -> Outcome:
    store_payload(session, opened, record, graph_file(record))
    return Outcome(1)


def _environment(session: Session, opened: OpenRun, record: Record) -> Outcome:
    environment = json_object(record)
    store_payload(session, opened, record, "tracelet/environment.json")
    about = wandb_environment.metadata(environment, record.time_unix_nano)
    _store_own(opened, wandb_environment.METADATA_FILE, json.dumps(about, indent=2))
    if packages := requirements(environment):
        _store_own(opened, wandb_environment.PACKAGES_FILE, packages)
    return Outcome(1)


def _store_own(opened: OpenRun, name: str, text: str) -> None:
    """One of the files that W&B itself would have written, and shows in places of their own."""
    (opened.folder / name).write_text(text, encoding="utf-8")
    opened.run._interface.publish_files({"files": [(name, "now")]})


ROWS: Final = frozenset({"text", "image", "figure", "audio", "video", "histogram", "pr_curve", "mesh"})
"""Kinds that are rows of the history: logged again, they would be there twice."""
WRITERS: Final[Mapping[str, Writer]] = {
    "params": _params,
    "tags": _tags,
    "text": _text,
    "image": _media(_image),
    "figure": _media(_image),
    "audio": _media(_audio),
    "video": _media(_video),
    "histogram": _histogram,
    "pr_curve": _pr_curve,
    "mesh": _mesh,
    "embedding": _embedding,
    "artifact": _artifact,
    "layout": _layout,
    "graph": _graph,
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
