"""Files of a run: AIM's artifacts, or, where the repository has no place for them, bytes beside a text.

A repository on disk gets the folder ``artifacts`` in its ``.aim``, unless the run or the tracker names
another place. AIM's server takes no artifacts: a file then is a text of its name, in context
``{"kind": "file"}``, that says what it is and holds the bytes as ``content`` in its storage.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.otlp.records import Record
from tracelet_otel_exporters.aim import points as aim_points
from tracelet_otel_exporters.aim.points import Row
from tracelet_otel_exporters.aim.runs import OpenRun, valid_text
from tracelet_otel_exporters.aim.store import Write, library
from tracelet_otel_exporters.shared import safe_names
from tracelet_otel_exporters.shared.record_content import payload_or_file

CONTEXT: Final = {"kind": "file"}
MAX_CONTENT: Final = 256 << 20
"""Bytes of a file that goes through AIM's server, which holds it in memory several times."""


def write(run: OpenRun, base: str | None, name: str, content: bytes) -> None:
    """Stores a file; one of the same name is replaced. Without a base it becomes the content of a text."""
    if base is None:
        _write_content(run, name, content)
        return
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        path = Path(folder, "file")
        path.write_bytes(content)
        write_file(run, base, name, path)


def write_file(run: OpenRun, base: str | None, name: str, path: Path) -> None:
    """Stores a file of this machine; one of the same name is replaced."""
    if base is None:
        if path.stat().st_size > MAX_CONTENT:
            raise PermanentError(f"{name}: too big for AIM's server, set artifacts_uri")
        _write_content(run, name, path.read_bytes())
        return
    from aim.sdk.objects.artifact import Artifact

    store = run.store
    place = ("meta", "chunks", store.hash)
    known = store.read("meta", (*place, "artifacts_uri"))
    if not known:
        store.commit([Write("meta", (*place, "artifacts_uri"), base)])
    folder = f"{known or base}".rstrip("/") + f"/{store.hash}"
    safe = safe_names.path(valid_text(name))
    original = {} if safe == name else {"original_name": valid_text(name)}
    artifact: Any = Artifact(str(path), uri=folder, name=safe, **original)
    if folder.startswith("file://"):
        artifact.storage["path"] = _copy(path, Path(unquote(urlsplit(folder).path), safe))
    else:
        artifact.upload(block=True)
    store.commit([Write("meta", (*place, "artifacts", safe), artifact)])


def write_payload(run: OpenRun, base: str | None, name: str, record: Record) -> None:
    """Stores a record's payload; a local media file is not read into memory.

    Raises:
        OSError: the media file cannot be read.
        ValueError: the media file is not the one that was logged.
    """
    content = payload_or_file(record)
    if isinstance(content, bytes):
        write(run, base, name, content)
    else:
        write_file(run, base, name, content)


def read_all(run: OpenRun, prefix: str) -> list[bytes]:
    """The contents of the run's files whose names begin so."""
    run_path = ("meta", "chunks", run.store.hash)
    found: list[bytes] = []
    artifacts: dict[str, Any] = run.store.read("meta", (*run_path, "artifacts")) or {}
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        for name, artifact in artifacts.items():
            if name.startswith(prefix):
                found.append(Path(artifact.download(folder)).read_bytes())
    context_id = library("aim.storage.context").Context(CONTEXT).idx
    traces: dict[str, Any] = run.store.read("meta", (*run_path, "traces", context_id)) or {}
    for name in traces:
        if name.startswith(prefix):
            path = ("seqs", "chunks", run.store.hash, context_id, name, "val", 0)
            text: Any = run.store.read("seqs", path)
            found.append(text.storage["content"].load())
    return found


def _copy(source: Path, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid.uuid4().hex[:12]}.partial")
    try:
        shutil.copyfile(source, partial)
        partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return str(target)


def _write_content(run: OpenRun, name: str, content: bytes) -> None:
    if len(content) > MAX_CONTENT:
        raise PermanentError(f"{name}: too big for AIM's server, set artifacts_uri")
    from aim.sdk.objects.text import Text
    from aim.storage.types import BLOB

    digest = hashlib.sha256(content).hexdigest()
    note = f"{name}: {len(content)} bytes, SHA-256 {digest}, in this text's storage as `content`"
    listed, value = Text(valid_text(note)), Text(valid_text(note))
    cast("Any", value).storage["content"] = BLOB(data=content)
    key = ("file", name)
    sequence = run.sequences.get(key)
    if sequence is None:
        sequence = aim_points.find(run.store, valid_text(name) or "_", CONTEXT, "aim.text", "file")
        run.sequences[key] = sequence
    run.store.commit(aim_points.changes(run.store, sequence, [Row(0, value, 0, listed)]))
