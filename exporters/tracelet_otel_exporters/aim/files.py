"""Files of a run: AIM's artifacts, or, where the repository has no place for them, bytes beside a text.

A repository on disk gets the folder ``artifacts`` in its ``.aim``, unless the run or the tracker names
another place. AIM's server takes no artifacts: a file then is a text of its name, in context
``{"kind": "file"}``, whose text describes it and which holds the bytes as ``content`` in its storage.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.tracker.companion import PREFIX
from tracelet_otel.tracker.companion_lines import identities, identity
from tracelet_otel.tracker.interface import Outcome
from tracelet_otel_exporters.aim import private, sequences
from tracelet_otel_exporters.aim.changes import Write
from tracelet_otel_exporters.aim.runs import AimRun
from tracelet_otel_exporters.aim.sequences import AimRow, valid_text
from tracelet_otel_exporters.shared import safe_names

CONTEXT: Final = {"kind": "file"}
MAX_CONTENT: Final = 256 << 20
"""Bytes of a file that goes through AIM's server, which holds it in memory several times."""


def write(run: AimRun, name: str, content: bytes | Path) -> None:
    """Stores bytes or a file of this machine; a file of the same name is replaced."""
    if isinstance(content, bytes):
        with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
            path = Path(folder, "file")
            path.write_bytes(content)
            write(run, name, path)
        return
    artifact_type: Any = private.ARTIFACT.get() if run.files is not None else None
    if artifact_type is None:
        _write_content(run, name, content)
        return
    store = run.store
    known = store.read("meta", private.run_key(store.hash, "artifacts_uri"))
    if not known:
        store.commit([Write("meta", private.run_key(store.hash, "artifacts_uri"), run.files)])
    folder = f"{known or run.files}".rstrip("/") + f"/{store.hash}"
    safe = safe_names.path(valid_text(name))
    original = {} if safe == name else {"original_name": valid_text(name)}
    artifact = artifact_type(str(content), uri=folder, name=safe, **original)
    if folder.startswith("file://"):
        target = Path(unquote(urlsplit(folder).path), safe)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{uuid.uuid4().hex[:12]}.partial")
        try:
            shutil.copyfile(content, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        artifact.storage["path"] = str(target)
    else:
        artifact.upload(block=True)
    store.commit([Write("meta", private.run_key(store.hash, "artifacts", safe), artifact)])


def read_all(run: AimRun, prefix: str) -> list[bytes]:
    """The contents of the run's files whose names begin with ``prefix``."""
    found: list[bytes] = []
    artifacts: dict[str, Any] = run.store.read("meta", private.run_key(run.store.hash, "artifacts")) or {}
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        for name, artifact in artifacts.items():
            if name.startswith(prefix):
                found.append(Path(artifact.download(folder)).read_bytes())
    context_id = private.CONTEXT.get()(CONTEXT).idx
    for name in run.store.read("meta", private.run_key(run.store.hash, "traces", context_id)) or ():
        if name.startswith(prefix):
            key = private.values_key(run.store.hash, False, context_id, name, "val", 0)
            found.append(run.store.read("seqs", key).storage["content"].load())
    return found


def drop_kept(run: AimRun, outcome: Outcome) -> None:
    """Leaves in ``outcome.aside`` what is not in the run's companion files: it would be there twice."""
    if not outcome.aside:
        return
    if run.in_companions is None:
        run.in_companions = identities(read_all(run, PREFIX)) if run.is_resumed else set()
    new = {known: line for line in outcome.aside if (known := identity(line)) not in run.in_companions}
    outcome.aside = [*new.values()]


def note_aside(run: AimRun, outcome: Outcome) -> None:
    """Notes what will be in the companion files, once a write has succeeded. Else a retry would drop it."""
    if run.in_companions is not None:
        run.in_companions.update(map(identity, outcome.aside))


def _write_content(run: AimRun, name: str, path: Path) -> None:
    import aim

    blob: Any = private.BLOB.get()
    if blob is None or path.stat().st_size > MAX_CONTENT:
        raise PermanentError(f"{name}: AIM's server cannot have it, set artifacts_uri")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    note = f"{name}: {len(content)} bytes, SHA-256 {digest}, in this text's storage as `content`"
    listed, value = aim.Text(valid_text(note)), aim.Text(valid_text(note))
    cast("Any", value).storage["content"] = blob(data=content)
    sequence = run.sequence(valid_text(name) or "_", CONTEXT, "aim.text", "file")
    run.store.commit(sequences.changes(run.store, sequence, [AimRow(0, value, 0, listed)]))
