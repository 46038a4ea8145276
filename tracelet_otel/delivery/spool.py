"""The spool: on disk, in order, what a backend has not taken yet.

A spool is a folder. Its files are named ``<number>.<signal>.jsonl`` and hold OTLP JSON lines, one request a
line and one signal a file, as OpenTelemetry's file exporter writes them and the Collector's
``otlp_json_file`` receiver reads them. Files of a lower number were recorded first; of one number the records
come before the points, and a run's end is in a file of a higher number than its last point. Payloads that are
files lie in ``media/``, named by their SHA-256, so that a spool can be moved to another machine as a whole.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tracelet_otel import semconv
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.otlp_json import Signal, logs_line, metrics_line, parse_line
from tracelet_otel.guard import log_once

SEGMENT_BYTES = 16 * 1024 * 1024
"""A file is followed by the next one beyond this size."""
MEDIA = "media"


class SpoolFullError(OSError):
    """The spool has reached its size limit: what is newest is not taken, so that the rest has no gap."""


class _Line(NamedTuple):
    signal: Signal
    length: int
    """Bytes in the file, with the line's end."""
    points: int
    records: int


class _Segment:
    """The two files of one number: what was appended and not read yet, by signal."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.paths: dict[Signal, Path] = {
            "logs": folder / f"{number:06d}.logs.jsonl",
            "metrics": folder / f"{number:06d}.metrics.jsonl",
        }
        self.lines: dict[Signal, deque[_Line]] = {"logs": deque(), "metrics": deque()}
        self.written: dict[Signal, int] = {"logs": 0, "metrics": 0}
        self.read: dict[Signal, int] = {"logs": 0, "metrics": 0}

    def next_line(self) -> _Line | None:
        queue = self.lines["logs"] or self.lines["metrics"]
        return queue[0] if queue else None


class Spool:
    """A spool that is written and drained by one process; used by several threads.

    Args:
        folder: made with the first batch, removed by :meth:`close` once it is empty.
        max_bytes: what it may hold, media included; beyond it nothing is appended.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self.points = 0
        """Points that were appended and not removed."""
        self.records = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._segments: deque[_Segment] = deque()
        self._number = 0
        self._lock = threading.RLock()

    def __bool__(self) -> bool:
        return any(segment.next_line() is not None for segment in tuple(self._segments))

    def append(self, batch: Batch) -> None:
        """Appends OTLP bytes.

        Raises:
            SpoolFullError: the limit is reached.
            OSError: the disk is full or the folder cannot be written to; nothing was appended.
        """
        with self._lock:
            if batch.ends and self._segments:
                self._number = self._segments[-1].number  # a higher one: it comes after every point
            self._append_to(None, batch)

    def prepend(self, batch: Batch) -> None:
        """Puts back in front what was taken before everything that is here; once at most.

        Raises:
            OSError: as :meth:`append`.
        """
        with self._lock:
            self._segments.appendleft(_Segment(self.folder, 0))
            self.folder.mkdir(parents=True, exist_ok=True)
            self._append_to(self._segments[0], batch)

    def peek(self) -> Batch | None:
        """The oldest batch that was not removed.

        Raises:
            OSError, ValueError: it cannot be read back.
        """
        with self._lock:
            while self._segments:
                segment = self._segments[0]
                line = segment.next_line()
                if line is None:
                    self._drop_segment()
                    continue
                # Whatever is appended from now on goes into a later file: this one's order is settled.
                self._number = max(self._number, segment.number)
                with segment.paths[line.signal].open("rb") as file:
                    file.seek(segment.read[line.signal])
                    batch = _batch(parse_line(file.read(line.length)), self.folder)
                if batch is None:
                    raise ValueError("an empty line")
                return batch
            return None

    def remove(self) -> None:
        """Removes the batch that :meth:`peek` gave, or cannot give."""
        with self._lock:
            segment = self._segments[0]
            queue = segment.lines["logs"] or segment.lines["metrics"]
            line = queue.popleft()
            segment.read[line.signal] += line.length
            self.points -= line.points
            self.records -= line.records
            if segment.next_line() is None:
                self._drop_segment()

    def close(self) -> None:
        """Makes what is left durable, or removes the folder if nothing is."""
        with self._lock:
            if not self:
                if self._number:
                    shutil.rmtree(self.folder, ignore_errors=True)
                return
            for segment in self._segments:
                for path in segment.paths.values():
                    if path.exists():
                        with path.open("rb") as file:
                            os.fsync(file.fileno())

    def _append_to(self, segment: _Segment | None, batch: Batch) -> None:
        for signal, line in self._lines(batch):
            points, records = (batch.points, 0) if signal == "metrics" else (0, batch.records)
            self._write(segment or self._segment(signal), signal, line, points, records)

    def _write(self, segment: _Segment, signal: Signal, line: str, points: int, records: int) -> None:
        data = line.encode() + b"\n"
        if self._bytes + len(data) > self._max_bytes:
            raise SpoolFullError(
                f"{self.folder} has reached its limit of {self._max_bytes} bytes (TRACELET_MAX_SPOOL_BYTES)"
            )
        path = segment.paths[signal]
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            written = 0
            try:
                written = file.write(data)
            finally:
                if written < len(data):  # a torn line would be the end of the file for its readers
                    _truncate(path, before)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        segment.written[signal] = before + len(data)
        segment.lines[signal].append(_Line(signal, len(data), points, records))
        self._bytes += len(data)
        self.points += points
        self.records += records

    def _segment(self, signal: Signal) -> _Segment:
        last = self._segments[-1] if self._segments else None
        if last is None or last.number <= self._number or last.written[signal] >= SEGMENT_BYTES:
            number = max(self._number, last.number if last else 0) + 1
            self.folder.mkdir(parents=True, exist_ok=True)
            last = _Segment(self.folder, number)
            self._segments.append(last)
        return last

    def _drop_segment(self) -> None:
        segment = self._segments.popleft()
        self._number = max(self._number, segment.number)
        for signal, path in segment.paths.items():
            self._bytes -= segment.written[signal]
            path.unlink(missing_ok=True)

    def _lines(self, batch: Batch) -> Iterator[tuple[Signal, str]]:
        if isinstance(batch.logs, bytes):
            request = ExportLogsServiceRequest.FromString(batch.logs)
            self._keep_media(request)
            yield "logs", logs_line(request)
        if isinstance(batch.metrics, bytes):
            yield "metrics", metrics_line(ExportMetricsServiceRequest.FromString(batch.metrics))

    def _keep_media(self, request: ExportLogsServiceRequest) -> None:
        """Takes files that records name into the spool: where they are now is temporary."""
        for uri, digest in _media(request):
            source = _local_path(uri.value.string_value)
            if source is None:
                continue
            name = digest or source.name
            target = self.folder / MEDIA / name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                self._bytes += _link(source, target)
            uri.value.string_value = f"{MEDIA}/{name}"


def read(folder: Path) -> Iterator[Batch]:
    """What a spool holds, in order. A file that is being written to is read as far as it goes.

    A line that cannot be read is logged and left out, a torn last line too.
    """
    order: dict[str, int] = {"logs": 0, "metrics": 1}
    paths = sorted(
        folder.glob("*.jsonl"), key=lambda path: (path.name.split(".")[0], order.get(_signal(path), 2))
    )
    for path in paths:
        yield from read_file(path)


def read_file(path: Path) -> Iterator[Batch]:
    """The batches of one file of OTLP JSON lines, of a spool or of the Collector's file exporter.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                log_once(f"torn {path}", logging.WARNING, "%s: the last line is incomplete", path)
                return
            try:
                batch = _batch(parse_line(line), path.parent)
            except ValueError as error:
                log_once(f"bad {path}", logging.WARNING, "%s, line %d is skipped: %s", path, number, error)
                continue
            if batch is not None:
                yield batch


def folders(path: Path) -> list[Path]:
    """Every spool at or below ``path``, oldest first."""
    found = {file.parent for file in path.rglob("*.jsonl") if _signal(file) in ("logs", "metrics")}
    return sorted(found)


def _signal(path: Path) -> str:
    parts = path.name.split(".")
    return parts[-2] if len(parts) > 2 else ""


def _batch(
    request: ExportMetricsServiceRequest | ExportLogsServiceRequest | None, folder: Path
) -> Batch | None:
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
    for uri, _ in _media(request):
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


def _media(request: ExportLogsServiceRequest) -> Iterator[tuple[KeyValue, str]]:
    """The attributes that name a file, each with the file's SHA-256."""
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                by_key = {item.key: item for item in record.attributes}
                if (uri := by_key.get(semconv.PAYLOAD_URI)) is not None:
                    digest = by_key.get(semconv.PAYLOAD_SHA256)
                    yield uri, digest.value.string_value if digest is not None else ""


def _local_path(uri: str) -> Path | None:
    """The file of a URI, if it is one of this machine."""
    parts = urlsplit(uri)
    if parts.scheme in ("file", "local"):
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
        shutil.copyfile(source, target)
    return target.stat().st_size


def _truncate(path: Path, size: int) -> None:
    try:
        os.truncate(path, size)
    except OSError:
        log_once(f"spool {path}", logging.ERROR, "%s ends with an incomplete line", path)
