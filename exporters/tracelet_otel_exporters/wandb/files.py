"""Files of a W&B run: exact bytes, safe names."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from pathlib import Path

from tracelet_otel.otlp.records import Record
from tracelet_otel_exporters.wandb import names as wandb_names
from tracelet_otel_exporters.wandb.runs import OpenRun
from tracelet_otel_exporters.wandb.session import Session


def store_file(session: Session, opened: OpenRun, name: str, path: Path) -> None:
    """Stores a file's bytes among the run's files."""
    safe = wandb_names.file(name)
    opened.note("files", safe, name)
    target = opened.folder / safe
    with session.calls():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not over the old file: what is being uploaded of it must stay whole.
        copy = target.with_name(f".tracelet-{uuid.uuid4().hex}")
        shutil.copyfile(path, copy)
        copy.replace(target)
        opened.run._interface.publish_files({"files": [(safe, "now")]})


def store_bytes(session: Session, opened: OpenRun, name: str, content: bytes) -> None:
    """Stores bytes as a file of the run."""
    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        path = Path(folder, "content")
        path.write_bytes(content)
        store_file(session, opened, name, path)


def store_json(session: Session, opened: OpenRun, name: str, content: object) -> None:
    """Stores a readable JSON file."""
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
    store_bytes(session, opened, name, text.encode(errors="surrogatepass"))


def store_payload(session: Session, opened: OpenRun, record: Record, name: str) -> None:
    """Stores a record's payload as a file of the run."""
    store_bytes(session, opened, name, record.read())
