"""Files of a run: uploaded to ClearML's file server, and listed with the task as artifacts or models."""

from __future__ import annotations

import contextlib
import io
import posixpath
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from tracelet_otel_exporters.clearml.connection import ClearMLConnection, ClearMLRefusedError
from tracelet_otel_exporters.clearml.names import clean, segment
from tracelet_otel_exporters.clearml.runs import ClearMLRun
from tracelet_otel_exporters.shared.record_content import sha256

MAX_PREVIEW: Final = 16_000
"""Characters of a text file that ClearML shows without downloading it."""
_CHUNK: Final = 1 << 20


class Multipart:
    """A body with one file, read while it is sent, as ClearML's own client sends it: the name is the path."""

    def __init__(self, path: str, content: bytes | Path, mime_type: str) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        file_name = path.rpartition("/")[2]
        self._head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{path}"; filename="{file_name}"\r\n'
            f"Content-Type: {mime_type or 'application/octet-stream'}\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._content = content
        self._size = len(content) if isinstance(content, bytes) else content.stat().st_size

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        content = self._content
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield self._tail


def upload(connection: ClearMLConnection, path: str, content: bytes | Path, mime_type: str = "") -> str:
    """Stores a file at ``path``, which must be plain ASCII, and returns its URL.

    Where ClearML's file server is configured to be a bucket, fsspec writes there.
    """
    url = f"{connection.files_host}/{path}"
    if urlsplit(url).scheme in ("http", "https"):
        body = Multipart(path, content, mime_type)
        connection.ask_file_server("POST", f"{connection.files_host}/", body.content_type, body)
        return url
    import fsspec

    with cast("Any", fsspec).open(url, "wb") as target:
        target.write(content if isinstance(content, bytes) else content.read_bytes())
    return url


def write_artifact(
    run: ClearMLRun,
    name: str,
    content: bytes | Path,
    mime_type: str = "",
    details: Mapping[str, object] | None = None,
) -> str:
    """Stores a file with the task, in the place of an earlier one of the same name; returns its URL."""
    digest, size = sha256(content)
    # Other content has another URL: while it is uploaded, the earlier file stays complete.
    *folders, base = name.split("/")
    stem, suffix = posixpath.splitext(base)
    base = f"{digest[:16]}-{segment(stem)}" + (f".{segment(suffix[1:])}" if suffix[1:] else "")
    path = "/".join(["tracelet", run.id, "artifacts", *(segment(part) for part in folders if part), base])
    url = upload(run.connection, path, content, mime_type)
    preview = ""
    if isinstance(content, bytes) and mime_type.startswith(("text/", "application/json")):
        preview = content[:MAX_PREVIEW].decode(errors="replace")
    artifact: dict[str, object] = {
        "key": clean(name),
        "type": "custom",
        "mode": "output",
        "uri": url,
        "hash": digest,
        "content_size": size,
        "type_data": {"preview": preview, "content_type": mime_type, "data_hash": digest},
        "display_data": [[key, str(value)] for key, value in sorted((details or {}).items())],
    }
    run.edit("add_or_update_artifacts", force=True, artifacts=[artifact])
    return url


def read_artifacts(run: ClearMLRun, prefix: str) -> Iterator[bytes]:
    """The content of the artifacts whose names begin so, as far as they are still there."""
    artifacts: list[Any] = run.stored("execution").get("artifacts") or []
    for artifact in artifacts:
        if str(artifact["key"]).startswith(prefix):
            with contextlib.suppress(ClearMLRefusedError):
                yield _download(run.connection, str(artifact["uri"]))


def _download(connection: ClearMLConnection, url: str) -> bytes:
    """A file that :func:`upload` has stored."""
    if urlsplit(url).scheme in ("http", "https"):
        return connection.ask_file_server("GET", url)
    import fsspec

    with cast("Any", fsspec).open(url, "rb") as source:
        return bytes(source.read())


def write_model(run: ClearMLRun, name: str, uri: str, step: int, metadata: Mapping[str, object]) -> None:
    """Lists a checkpoint among the task's output models; one of the same name is changed."""
    linked: list[Any] = run.stored("models").get("output") or []
    model: Any = next((item["model"] for item in linked if item["name"] == name), None)
    if model is not None:
        run.connection.call("models", "update", model=model, uri=uri)
    else:
        items = [{"key": k, "type": type(v).__name__, "value": str(v)} for k, v in metadata.items()]
        model = run.connection.call(
            *("models", "create"),
            uri=uri,
            name=name,
            task=run.id,
            project=run.project or None,
            metadata=items,
        )["id"]
    run.call("add_or_update_model", name=name, model=model, type="output", iteration=max(step, 0))
