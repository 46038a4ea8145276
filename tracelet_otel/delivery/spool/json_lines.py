"""OTLP JSON lines: what backend ``file`` writes, what replay takes, and spools of the version before.

A folder has files named ``<number>.<signal>.jsonl``, one request a line and one signal a file, as
OpenTelemetry's file exporter writes them and the Collector's ``otlp_json_file`` receiver reads them. Lower
numbers were recorded first; of one number the records come before the points, and a run's end is in a file of
a higher number than its last point. Payloads that are files lie in ``media/``.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tracelet_otel import semconv
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool import SpoolFullError
from tracelet_otel.delivery.spool.media import Media, Payloads, locate
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.json import Signal, logs_line, metrics_line, parse_line
from tracelet_otel.otlp.request_splitting import is_counted, logged_points
from tracelet_otel.otlp.traversal import log_records

SIGNALS: Final[tuple[Signal, Signal]] = ("logs", "metrics")
"""In the order in which the files of one number are read."""
FILE_BYTES: Final = 16 * 1024 * 1024
"""A file is followed by the next one beyond this size."""


class JsonLines:
    """A folder that is written to by one process.

    Args:
        folder: made with the first batch.
        max_bytes: what it may hold, media included; beyond it nothing is appended.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._bytes = 0
        self._media = Media(folder)
        self._number = 0
        self._sizes: dict[Signal, int] = {}
        """Of the files of that number."""
        self._paths: set[Path] = set()
        """That were written to."""
        self._had: set[bytes] = set()
        """Digests of the lines of an earlier process."""

    def __bool__(self) -> bool:
        return bool(self._paths)

    def go_on(self) -> bool:
        """Goes on with what an earlier process left in the folder; whether there is anything.

        Its lines are not appended again; what is new comes after them. A last line that is incomplete is cut
        off. To be called before anything is appended.

        Raises:
            OSError: a file cannot be read or cut.
        """
        for path in self.folder.glob("[0-9]*.*.jsonl"):
            self._number = max(self._number, int(path.name.split(".")[0]))
            whole = 0
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        self._had.add(_digest(line))
                        whole += len(line)
            if whole < path.stat().st_size:
                os.truncate(path, whole)
            self._bytes += whole
        self._media.adopt(keeps=True)
        return bool(self._had)

    def append(self, batch: Batch) -> None:
        """Appends OTLP bytes.

        Raises:
            SpoolFullError: the limit is reached.
            OSError: the disk is full or the folder cannot be written to; nothing was appended.
        """
        if batch.logs is None:
            payloads = Payloads(batch.request)
            line, signal = metrics_line(ExportMetricsServiceRequest.FromString(batch.request)), SIGNALS[1]
        else:
            payloads = self._media.of(batch.request)
            line, signal = logs_line(ExportLogsServiceRequest.FromString(payloads.data)), SIGNALS[0]
        data = line.encode() + b"\n"
        if self._had and _digest(data) in self._had:
            return
        if self._bytes + self._media.bytes + len(data) + payloads.size > self._max_bytes:
            raise SpoolFullError(
                f"{self.folder} has reached its limit of {self._max_bytes} bytes (TRACELET_MAX_SPOOL_BYTES)"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._media.keep(payloads)
        try:
            self._write(signal, data, batch.ends)
        except BaseException:
            self._media.release(payloads.names)
            raise
        self._bytes += len(data)

    def close(self) -> None:
        """Makes the files durable.

        Raises:
            OSError: the disk failed.
        """
        for path in self._paths:
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def _write(self, signal: Signal, data: bytes, ends: bool) -> None:
        # A run's end comes after every point: in a file of a higher number.
        is_next = not self._sizes or ends or self._sizes.get(signal, 0) >= FILE_BYTES
        number = self._number + is_next
        path = path_of(self.folder, number, signal)
        with path.open("ab", buffering=0) as file:
            write_whole(file, data)
        if is_next:
            self._number, self._sizes = number, {}
        self._sizes[signal] = self._sizes.get(signal, 0) + len(data)
        self._paths.add(path)


def path_of(folder: Path, number: int, signal: Signal) -> Path:
    """The file of a number and a signal."""
    return folder / f"{number:06d}.{signal}.jsonl"


def signal_of(path: Path) -> str:
    """The signal that a file's name says; empty for other files."""
    parts = path.name.split(".")
    return parts[-2] if len(parts) > 2 and parts[-1] == "jsonl" and parts[-2] in SIGNALS else ""


def write_whole(file: IO[bytes], data: bytes) -> None:
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
            try:
                file.truncate(before)
            except OSError:
                log_once(f"cut {file.name}", logging.ERROR, "%s ends with an incomplete line", file.name)
    if written < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)


def read_lines(path: Path, start: int = 0, *, locates: bool = True) -> Iterator[tuple[Batch | None, int]]:
    """The batches of a file, each with the bytes of its line; None for one that is no OTLP.

    A last line that is incomplete is left out, and so is what is appended meanwhile.

    Args:
        path: the file.
        start: the byte from which it is read.
        locates: whether relative names of media become absolute ones.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - start
        file.seek(start)
        for line in file:
            left -= len(line)
            if left < 0 or not line.endswith(b"\n"):
                return
            try:
                request = parse_line(line)
                batch = Batch() if request is None else batch_of(request, path.parent if locates else None)
            except ValueError as error:
                log_once(f"bad {path}", logging.WARNING, "%s: a line is skipped: %s", path, error)
                batch = None
            yield batch, len(line)


def batch_of(
    request: ExportMetricsServiceRequest | ExportLogsServiceRequest, folder: Path | None = None
) -> Batch:
    """The batch of a request. ``folder`` is what the names of its media are relative to."""
    if isinstance(request, ExportMetricsServiceRequest):
        data = request.SerializeToString()
        return Batch(metrics=data, points=sum(logged_points(request)), size=len(data))
    if folder is not None:
        locate(request, folder)
    data = request.SerializeToString()
    logged = list(log_records(request))
    ends = any(record.event_name == semconv.EVENT_PREFIX + "status" for record in logged)
    return Batch(logs=data, records=sum(map(is_counted, logged)), size=len(data), ends=ends)


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()
