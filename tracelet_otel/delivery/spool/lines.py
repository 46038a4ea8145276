"""The lines of a spool: from batches and back, with the files that their records name."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tracelet_otel import semconv
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.json import logs_line, metrics_line, parse_line

MEDIA = "media"
"""The folder of a spool with the files that its records name."""
_SOURCE = b',"tracelet.source":'


def encode_metrics(data: bytes) -> bytes:
    """A metrics request as a line, with the line's end."""
    return metrics_line(ExportMetricsServiceRequest.FromString(data)).encode() + b"\n"


def encode_logs(data: bytes, folder: Path) -> tuple[bytes, list[str], int]:
    """A logs request as a line with the line's end, the names of its media, and the bytes that they add.

    Files that records name are taken into ``folder``: where they are now is temporary.

    Raises:
        OSError: a file cannot be kept.
    """
    request = ExportLogsServiceRequest.FromString(data)
    names: list[str] = []
    kept = 0
    for uri, digest in payload_uris(request):
        source = local_path(uri.value.string_value)
        if source is None:
            continue
        # A digest is what a sender says: no place elsewhere.
        name = digest if digest.isalnum() else hashlib.sha256(bytes(source)).hexdigest()
        target = folder / MEDIA / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            kept += _link(source, target)
        uri.value.string_value = f"{MEDIA}/{name}"
        names.append(name)
    return logs_line(request).encode() + b"\n", names, kept


def with_source(line: bytes, source: str) -> bytes:
    """A line that also says who sent it; other readers of OTLP JSON pass over that."""
    return b"%b%b%b}\n" % (line[:-2], _SOURCE, json.dumps(source).encode())


def batch_of_line(line: bytes, folder: Path) -> Batch:
    """The batch of a line of a spool.

    Raises:
        ValueError: it is no line of a metrics or logs request.
    """
    batch = batch_of(parse_line(line), folder)
    if batch is None:
        raise ValueError("a line without metrics and logs")
    # Inside a text the quotation mark would follow a backslash: this is the member of the line's object.
    place = line.rfind(_SOURCE)
    if place < 0:
        return batch
    return replace(batch, source=str(json.loads(line[place + len(_SOURCE) : -2])))


def media_names(batch: Batch, folder: Path) -> list[str]:
    """The names of the files in the media folder of a spool that a batch's records name, one for each."""
    if not isinstance(batch.logs, bytes):
        return []
    parent = str(folder.absolute() / MEDIA)
    paths = (
        Path(uri.value.string_value)
        for uri, _ in payload_uris(ExportLogsServiceRequest.FromString(batch.logs))
    )
    return [path.name for path in paths if str(path.parent) == parent]


def write_whole(file: IO[bytes], path: Path, data: bytes) -> None:
    """Appends ``data`` to an unbuffered file, or nothing: a torn line would be the end of it for its readers.

    Raises:
        OSError: the disk is full or the file cannot be written to.
    """
    before = file.seek(0, os.SEEK_END)
    written = 0
    try:
        written = file.write(data)
    finally:
        if written < len(data):
            _truncate(path, before)
    if written < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def batch_of(
    request: ExportMetricsServiceRequest | ExportLogsServiceRequest | None, folder: Path
) -> Batch | None:
    """The batch of one line's request; None for none. ``folder`` is what its media are relative to."""
    if request is None:
        return None
    if isinstance(request, ExportMetricsServiceRequest):
        points = sum(
            len(point.exemplars)
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name in (semconv.SCALAR, semconv.SCALAR_NONFINITE)
            for point in (*metric.gauge.data_points, *metric.sum.data_points)
        )
        data = request.SerializeToString()
        return Batch(metrics=data, points=points, size=len(data))
    for uri, _ in payload_uris(request):
        if "://" not in uri.value.string_value and not Path(uri.value.string_value).is_absolute():
            uri.value.string_value = str((folder / uri.value.string_value).absolute())
    names = [
        record.event_name
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]
    kinds = [
        name.removeprefix(semconv.EVENT_PREFIX) for name in names if name.startswith(semconv.EVENT_PREFIX)
    ]
    records = sum(1 for kind in kinds if kind not in semconv.ATTENDANTS)
    data = request.SerializeToString()
    return Batch(logs=data, records=records, size=len(data), ends="status" in kinds)


def payload_uris(request: ExportLogsServiceRequest) -> Iterator[tuple[KeyValue, str]]:
    """The attributes that name a file, each with the file's SHA-256."""
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                by_key = {item.key: item for item in record.attributes}
                if (uri := by_key.get(semconv.PAYLOAD_URI)) is not None:
                    digest = by_key.get(semconv.PAYLOAD_SHA256)
                    yield uri, digest.value.string_value if digest is not None else ""


def local_path(uri: str) -> Path | None:
    """The file of a URI, if it is one of this machine."""
    parts = urlsplit(uri)
    if parts.scheme in ("file", "local"):
        from urllib.request import url2pathname  # which takes every start 5 ms

        return Path(url2pathname(parts.path))
    return Path(uri) if "://" not in uri else None


def _link(source: Path, target: Path) -> int:
    """Keeps a file under a second name; the bytes that it takes. A missing one is found missing later."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        return 0
    except OSError:  # another file system, or none with links
        if not source.exists():
            return 0
        _copy(source, target)
    return target.stat().st_size


def _copy(source: Path, target: Path) -> None:
    """Copies a file, or nothing: what has its name is taken for whole, also after a kill or a full disk."""
    part = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _truncate(path: Path, size: int) -> None:
    try:
        os.truncate(path, size)
    except OSError:
        log_once(f"spool {path}", logging.ERROR, "%s ends with an incomplete line", path)
