"""Each kind of record in W&B's most native form: a function a kind.

Media keep their exact bytes: W&B gets files, never arrays, which it would encode anew.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, cast

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Record
from tracelet_otel.tracker.interface import Outcome, Problem, RecordAside
from tracelet_otel_exporters.shared.environment_record import part, requirements
from tracelet_otel_exporters.shared.record_content import (
    file_suffix,
    fingerprint,
    graph_file,
    json_object,
    number_attribute,
    read_artifact,
    text_attribute,
)
from tracelet_otel_exporters.wandb import names, plots, private
from tracelet_otel_exporters.wandb.runs import WandbRun

Writer = Callable[[WandbRun, Record], "Outcome | None"]
"""Writes a record. Returns None where W&B keeps all of it."""


def row_id(record: Record) -> str:
    """What identifies a record that is a row of the history: eight characters, 48 bits."""
    return base64.urlsafe_b64encode(bytes.fromhex(fingerprint(record)[:12])).decode()


def _log(run: WandbRun, record: Record, key: str, value: Any) -> None:
    """Logs one of W&B's media, in a row of its own with the record's step and time."""
    run.wandb_run.log(
        {key: value, names.STEP: record.step, "_timestamp": record.time_unix_nano / 1_000_000_000}
    )


def _key(run: WandbRun, record: Record) -> str:
    """The key of the record's tag, rank and place among several that were logged at once."""
    rank, index = number_attribute(record, semconv.RANK), number_attribute(record, semconv.INDEX)
    key = names.media_key(record.tag, rank, index)
    original = "/".join([record.tag, *([str(index)] if index else []), *([f"rank_{rank}"] if rank else [])])
    run.note("media", key, original)
    return key


def _file(record: Record, key: str, suffix: str) -> str:
    """A file's name for a step; a further record of the same step has its time in it."""
    return f"{record.kind}/{key}/{record.step}-{record.time_unix_nano}{suffix}"


def _library() -> Any:
    import wandb

    return wandb


def _params(run: WandbRun, record: Record) -> None:
    encoded: dict[str, Any] = {}
    for name, value in json_object(record).items():
        key = names.config_key(name)
        run.note("params", key, name)
        encoded[key] = _finite(value)
    run.wandb_run.config.update(encoded, allow_val_change=True)


def _finite(value: Any) -> Any:
    """W&B's config is JSON in the strict sense: NaN and infinities by name."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(member) for name, member in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_finite(member) for member in cast("list[Any]", value)]
    return value


def _tags(run: WandbRun, record: Record) -> None:
    tags = json_object(record).items()
    run.set_tags({name: value if isinstance(value, str) else json.dumps(value) for name, value in tags})


def _text(run: WandbRun, record: Record) -> None:
    content = record.read()
    key = _key(run, record)
    run.store(_file(record, key, file_suffix(record)), content)
    text = html.escape(content.decode(errors="replace"), quote=False)
    page = f'<pre style="white-space: pre-wrap">{text}</pre>'
    _log(run, record, key, _library().Html(page, inject=False))


def _media(run: WandbRun, record: Record) -> Outcome | None:
    """For a kind whose files W&B shows as they are; one that it cannot read is only kept as a file."""
    makers = {"audio": _library().Audio, "video": _library().Video}
    suffix, content = file_suffix(record), record.read()
    key = _key(run, record)
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        path = Path(folder, f"content{suffix}")
        path.write_bytes(content)
        try:
            value = makers.get(record.kind, _image)(str(path))
        except Exception as error:  # Pillow's and W&B's many types
            run.store(_file(record, key, suffix), content)
            return Outcome(1, [Problem(record.tag, f"W&B shows it only as a file: {error}")])
        _log(run, record, key, value)  # copies the file
    return None


def _image(path: str) -> Any:
    image = _library().Image.__new__(_library().Image)

    def free() -> None:
        if (opened := private.PILLOW_IMAGE.get(image)) is not None:
            opened.close()  # Pillow keeps an animation's file open, and W&B's own does not close it
            private.PILLOW_IMAGE.set(None, image)

    private.FREE_IMAGE.set(free, image)
    image.__init__(path)
    return image


def _histogram(run: WandbRun, record: Record) -> Outcome:
    bins: Any = plots.bins(json_object(record))
    reason = "W&B shows no histogram without buckets"
    if bins is not None:
        _log(run, record, _key(run, record), _library().Histogram(np_histogram=bins))
        reason = f"W&B keeps at most {plots.MAX_BINS} bins, and of sums and outer limits nothing"
    return Outcome(1, aside=[RecordAside(record, reason)])


def _pr_curve(run: WandbRun, record: Record) -> Outcome:
    """W&B's line chart over a table; logging a ``wandb.Table`` would make an artifact of each one as well."""
    if (table := plots.pr_curve(json_object(record))) is not None:
        key = _key(run, record)
        empty = _library().Table(columns=table["columns"], data=[])
        chart = _library().plot.line(empty, x="recall", y="precision", title=record.tag)
        chart.set_key(key)
        spec = chart.spec
        content = json.dumps(table).encode()
        digest = hashlib.sha256(content).hexdigest()
        path = f"media/table/{spec.table_key}_{record.step}-{record.time_unix_nano}_{digest[:20]}.table.json"
        run.store(path, content)
        about = {"_type": "table-file", "path": names.file(path), "sha256": digest, "size": len(content)}
        about |= {"ncols": len(table["columns"]), "nrows": len(table["data"])}
        message = private.request(run.id)
        config = message.record_publish.config.update
        config.add(nested_key=spec.config_key, value_json=json.dumps(spec.config_value))
        run.core.publish([message])
        _log(run, record, spec.table_key, about)
    return Outcome(
        1, aside=[RecordAside(record, "W&B has a table and a chart of it, and not all of its own")]
    )


def _mesh(run: WandbRun, record: Record) -> None:
    content = record.read()
    key = _key(run, record)
    run.store(_file(record, key, ".npz"), content)
    if config := record.attributes.get(semconv.MESH_CONFIG):
        run.store(_file(record, key, ".json"), str(config).encode())
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        for number, (suffix, text) in enumerate(plots.meshes(content)):
            path = Path(folder, f"{number}.{suffix}")
            path.write_text(text, encoding="utf-8")
            _log(run, record, f"{key}/{number}" if number else key, _library().Object3D(str(path)))


def _embedding(run: WandbRun, record: Record) -> None:
    name = text_attribute(record, semconv.FILE_NAME) or "embedding"
    run.store(f"embedding/{_key(run, record)}/{record.step}/{name}", record.read())


def _artifact(run: WandbRun, record: Record) -> None:
    artifact = read_artifact(record)
    if artifact.checkpoint:
        about = json.dumps(artifact.description, indent=1, ensure_ascii=False, default=str)
        run.store(artifact.description_name, about.encode(errors="surrogatepass"))
    if artifact.has_content:
        run.store(artifact.name, record.read())


def _environment(run: WandbRun, record: Record) -> None:
    described = json_object(record)
    run.store("tracelet/environment.json", record.read())
    metadata = json.dumps(_metadata(described, record.time_unix_nano), indent=2)
    # What W&B itself would have written, and shows in places of their own.
    for name, text in (("wandb-metadata.json", metadata), ("requirements.txt", requirements(described))):
        if text:
            (run.folder / name).write_text(text, encoding="utf-8")
            run.upload(name)


def _metadata(environment: Mapping[str, Any], time_unix_nano: int) -> object:
    """The content of ``wandb-metadata.json``, which W&B shows on the run's overview.

    Source of its fields: ``EnvironmentRecord`` in ``wandb_internal.proto``, which ``wandb-core`` writes to
    that file as protobuf's JSON.
    """
    host, git, python = (part(environment, name) for name in ("host", "git", "python"))
    gpus = [cast("dict[str, Any]", gpu) for gpu in environment.get("gpus") or () if isinstance(gpu, dict)]
    started = datetime.fromtimestamp(time_unix_nano / 1e9, timezone.utc)
    return _given(
        {
            "os": host.get("os"),
            "python": python.get("version"),
            "executable": python.get("executable"),
            "startedAt": started.isoformat().replace("+00:00", "Z"),
            "program": environment.get("entry_point"),
            "args": [str(part) for part in environment.get("command") or ()][1:],
            "root": environment.get("working_dir"),
            "host": host.get("name"),
            "git": {
                "remote": git.get("repository"),
                "commit": git.get("commit"),
                "branch": git.get("branch"),
            },
            "cpu_count_logical": host.get("cpu_count"),
            "memory": {"total": _digits(host.get("memory_bytes"))},
            "gpu": gpus[0].get("name") if gpus else None,
            "gpu_count": len(gpus) or None,
            "gpu_nvidia": [
                {"name": gpu.get("name"), "memoryTotal": _digits(gpu.get("memory_bytes"))} for gpu in gpus
            ],
        }
    )


def _given(value: object) -> object:
    """Without what is not given."""
    if isinstance(value, dict):
        members = {name: _given(member) for name, member in cast("dict[str, object]", value).items()}
        return {name: member for name, member in members.items() if member not in (None, {}, [])}
    if isinstance(value, list):
        return [_given(member) for member in cast("list[object]", value)]
    return value


def _digits(value: object) -> str | None:
    """A 64-bit integer as protobuf's JSON has it."""
    return None if value is None else str(value)


ROWS: Final = frozenset({"text", "image", "figure", "audio", "video", "histogram", "pr_curve", "mesh"})
"""Kinds that are rows of the history: logged again, they would be there twice."""
WRITERS: Final[Mapping[str, Writer]] = {
    "params": _params,
    "tags": _tags,
    "text": _text,
    **dict.fromkeys(("image", "figure", "audio", "video"), _media),
    "histogram": _histogram,
    "pr_curve": _pr_curve,
    "mesh": _mesh,
    "embedding": _embedding,
    "artifact": _artifact,
    "layout": lambda run, record: run.store("tensorboard/custom_scalars.json", record.read()),
    "graph": lambda run, record: run.store(graph_file(record), record.read()),
    "environment": _environment,
}
"""By kind: what writes it. Raises OSError or ValueError where the record's content is unreadable."""
