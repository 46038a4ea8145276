"""The spool: on disk, in order, what a backend has not taken yet.

A spool is a folder. Its files are named ``<number>.<signal>.jsonl`` and hold OTLP JSON lines, one request a
line and one signal a file, as OpenTelemetry's file exporter writes them and the Collector's
``otlp_json_file`` receiver reads them. Files of a lower number were recorded first; of one number the records
come before the points, and a run's end is in a file of a higher number than its last point. Payloads that are
files lie in ``media/``, named by their SHA-256, so that a spool can be moved to another machine as a whole.
Of a spool that waits for several backends, ``routes.json`` says which of them get a part of it, and which.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool.lines import batch_of, encode_logs, encode_metrics, write_whole
from tracelet_otel.delivery.spool.segments import cut_torn_line
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.json import Signal, parse_line

ROUTES = "routes.json"
"""By backend the options of its :class:`~tracelet_otel.delivery.routing.Route`."""
SEGMENT_BYTES = 16 * 1024 * 1024
"""A file is followed by the next one beyond this size."""


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
        routes: for :data:`ROUTES`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        routes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    ) -> None:
        self.folder = folder
        self._routes = routes
        self.points = 0
        """Points that were appended and not removed."""
        self.records = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._segments: deque[_Segment] = deque()
        self._number = 0
        self._after = 0
        """The highest number of an earlier process's files."""
        self._had: set[bytes] = set()
        """Digests of the lines in them."""
        self._lock = threading.RLock()

    def __bool__(self) -> bool:
        return any(segment.next_line() is not None for segment in tuple(self._segments))

    def go_on(self) -> bool:
        """Goes on with what an earlier process left in the folder; whether there is anything.

        Its lines stay where they are: neither drained nor removed, and not appended again. What is new comes
        after them. A last line that is incomplete is cut off. To be called before anything is appended.

        Raises:
            OSError: a file cannot be read or cut.
        """
        self._bytes = 0
        for path in self.folder.glob("[0-9]*.*.jsonl"):
            self._after = max(self._after, int(path.name.split(".")[0]))
            self._bytes += cut_torn_line(path)
            with path.open("rb") as file:
                self._had.update(map(_digest, file))
        return bool(self._had)

    def append(self, batch: Batch) -> None:
        """Appends OTLP bytes.

        Raises:
            SpoolFullError: the limit is reached.
            OSError: the disk is full or the folder cannot be written to; nothing was appended.
        """
        with self._lock:
            lines = [
                line for line in self._lines(batch) if not self._had or _digest(line[1]) not in self._had
            ]
            if batch.ends and self._segments and lines:
                self._number = self._segments[-1].number  # a higher one: it comes after every point
            self._append_to(None, batch, lines)

    def prepend(self, batch: Batch) -> None:
        """Puts back in front what was taken before everything that is here; once at most.

        Raises:
            OSError: as :meth:`append`.
        """
        with self._lock:
            self._make_folder()
            self._segments.appendleft(_Segment(self.folder, 0))
            self._append_to(self._segments[0], batch, self._lines(batch))

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
                    batch = batch_of(parse_line(file.read(line.length)), self.folder)
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

    def _append_to(
        self, segment: _Segment | None, batch: Batch, lines: Iterable[tuple[Signal, bytes]]
    ) -> None:
        for signal, data in lines:
            points, records = (batch.points, 0) if signal == "metrics" else (0, batch.records)
            self._write(segment or self._segment(signal), signal, data, points, records)

    def _lines(self, batch: Batch) -> Iterator[tuple[Signal, bytes]]:
        if isinstance(batch.logs, bytes):
            data, _, kept = encode_logs(batch.logs, self.folder)
            self._bytes += kept
            yield "logs", data
        if isinstance(batch.metrics, bytes):
            yield "metrics", batch.line or encode_metrics(batch.metrics)

    def _write(self, segment: _Segment, signal: Signal, data: bytes, points: int, records: int) -> None:
        if self._bytes + len(data) > self._max_bytes:
            raise SpoolFullError(
                f"{self.folder} has reached its limit of {self._max_bytes} bytes (TRACELET_MAX_SPOOL_BYTES)"
            )
        path = segment.paths[signal]
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            write_whole(file, path, data)
        segment.written[signal] = before + len(data)
        segment.lines[signal].append(_Line(signal, len(data), points, records))
        self._bytes += len(data)
        self.points += points
        self.records += records

    def _segment(self, signal: Signal) -> _Segment:
        last = self._segments[-1] if self._segments else None
        if last is None or last.number <= self._number or last.written[signal] >= SEGMENT_BYTES:
            number = max(self._number, last.number if last else self._after) + 1
            self._make_folder()
            last = _Segment(self.folder, number)
            self._segments.append(last)
        return last

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ROUTES
        if self._routes and not path.exists():
            draft = path.with_suffix(".new")  # all of it or nothing, also where the disk is full
            draft.write_text(json.dumps(self._routes))
            draft.replace(path)

    def _drop_segment(self) -> None:
        segment = self._segments.popleft()
        self._number = max(self._number, segment.number)
        for signal, path in segment.paths.items():
            self._bytes -= segment.written[signal]
            path.unlink(missing_ok=True)


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
                batch = batch_of(parse_line(line), path.parent)
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


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()
