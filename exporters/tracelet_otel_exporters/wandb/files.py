"""Files of a W&B run: exact bytes, safe names."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path

from tracelet_otel.otlp.records import Record
from tracelet_otel_exporters.wandb import messages, names
from tracelet_otel_exporters.wandb.runs import WandbRun


def announce(run: WandbRun, name: str) -> None:
    """Has W&B upload a file in the run's folder."""
    run.core.publish([messages.file(run.id, name)])


def store_file(run: WandbRun, name: str, path: Path) -> None:
    """Stores a file's bytes among the run's files."""
    safe = names.file(name)
    run.note("files", safe, name)
    target = run.folder / safe
    with run.core.calls():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not over the old file: what is being uploaded of it must stay whole.
        copy = target.with_name(f".tracelet-{uuid.uuid4().hex}")
        shutil.copyfile(path, copy)
        copy.replace(target)
    announce(run, safe)


def store_bytes(run: WandbRun, name: str, content: bytes) -> None:
    """Stores bytes as a file of the run."""
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        path = Path(folder, "content")
        path.write_bytes(content)
        store_file(run, name, path)


def store_payload(run: WandbRun, record: Record, name: str) -> None:
    """Stores a record's payload as a file of the run."""
    store_bytes(run, name, record.read())
