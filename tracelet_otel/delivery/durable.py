"""A spool that everything goes through: on disk before it is acknowledged, and across restarts.

Its files are those of :mod:`tracelet_otel.delivery.spool`. Beside them ``position`` says how far they were
delivered, so that the next process goes on there. What a process has just appended it also keeps in memory,
so that nothing is read back from the disk while the backend keeps up.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.lines import (
    MEDIA,
    batch_of_line,
    encode_logs,
    encode_metrics,
    media_names,
    with_source,
    write_whole,
)
from tracelet_otel.delivery.otlp_json import Signal
from tracelet_otel.delivery.spool import SEGMENT_BYTES, SpoolFullError
from tracelet_otel.guard import log_once

POSITION: Final = "position"
_POSITION: Final = re.compile(rb"(\d{12}) (\d{15}) (\d{15})\n")
_MOST_OPEN: Final = 64
"""Files with something that is not durable yet."""
_SIGNALS: Final[tuple[Signal, Signal]] = ("logs", "metrics")


@dataclass(slots=True)
class _Segment:
    """The two files of one number."""

    number: int
    paths: dict[Signal, Path]
    written: dict[Signal, int] = field(default_factory=lambda: {"logs": 0, "metrics": 0})
    read: dict[Signal, int] = field(default_factory=lambda: {"logs": 0, "metrics": 0})
    files: dict[Signal, IO[bytes]] = field(default_factory=dict["Signal", IO[bytes]])
    """Open while they are appended to, and until what was appended is durable."""

    def unread(self) -> Signal | None:
        """The signal whose file is to be read next."""
        return next((signal for signal in _SIGNALS if self.read[signal] < self.written[signal]), None)


@dataclass(slots=True)
class _Line:
    """One line that is being delivered, or waits in memory."""

    segment: _Segment
    signal: Signal
    length: int
    batch: Batch | None
    """None: it cannot be read back."""


class DurableSpool:
    """A spool that everything goes through; used by several threads of one process.

    Args:
        folder: made if it is not there; what is in it goes on to be delivered.
        max_bytes: what it may hold, media included; beyond it nothing is appended.
        max_memory_bytes: what is also kept in memory.
        recovered: called with each batch that an earlier process left, in order.

    Raises:
        OSError: the folder cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        max_memory_bytes: int,
        recovered: Callable[[Batch], None] | None = None,
    ) -> None:
        self.folder = folder
        self.points = 0
        """Points that were appended and not removed."""
        self.records = 0
        self.bytes = 0
        """Bytes on disk, of what is delivered too until its file is removed."""
        self.max_bytes = max_bytes
        self._segment_bytes = max(1, min(SEGMENT_BYTES, max_bytes // 16))
        self._max_memory = max_memory_bytes
        self._memory: deque[_Line] = deque()
        self._memory_bytes = 0
        self._holds_newest = False
        """Whether the newest line is in memory, so that the next one may be."""
        self._taken: _Line | None = None
        self._segments: deque[_Segment] = deque()
        self._media: Counter[str] = Counter()
        self._number = 0
        self._lock = threading.RLock()
        self._syncing = threading.Lock()
        self._appended = 0
        self._synced = 0
        self._unsynced: list[IO[bytes]] = []
        self._retired: list[IO[bytes]] = []
        self._is_new_file = False
        folder.mkdir(parents=True, exist_ok=True)
        # Of this file each write is one small block: a process that is killed leaves it whole.
        self._position = os.open(folder / POSITION, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._adopt(recovered)
        except BaseException:
            os.close(self._position)
            raise

    def __bool__(self) -> bool:
        with self._lock:
            return any(segment.unread() for segment in self._segments)

    def append(self, batch: Batch) -> None:
        """Appends OTLP bytes; they are in the hands of the operating system then, see :meth:`sync`.

        Raises:
            SpoolFullError: the limit is reached.
            OSError: the disk is full or the folder cannot be written to; nothing was appended.
        """
        with self._lock:
            if isinstance(batch.logs, bytes):
                line, names, kept = encode_logs(batch.logs, self.folder)
                self.bytes += kept
                part = batch if batch.metrics is None else replace(batch, metrics=None, points=0, line=b"")
                self._append("logs", line, part, names)
            if isinstance(batch.metrics, bytes):
                line = batch.line or encode_metrics(batch.metrics)
                part = replace(batch, logs=None, records=0, ends=False, line=b"")
                self._append("metrics", line, part, [])

    def peek(self) -> Batch | None:
        """The oldest batch that was not removed.

        Raises:
            OSError, ValueError: it cannot be read back.
        """
        with self._lock:
            if self._taken is None:
                self._taken = self._memory[0] if self._memory else self._read()
            if self._taken is not None and self._taken.batch is None:
                raise ValueError(f"a line in {self._taken.segment.paths[self._taken.signal]} is no OTLP")
            return self._taken.batch if self._taken is not None else None

    def remove(self) -> None:
        """Removes the batch that :meth:`peek` gave, or cannot give."""
        with self._lock:
            line = self._taken
            assert line is not None
            self._taken = None
            if self._memory and self._memory[0] is line:
                self._memory.popleft()
                self._memory_bytes -= line.batch.size if line.batch else 0
            line.segment.read[line.signal] += line.length
            if line.batch is not None:
                self.points -= line.batch.points
                self.records -= line.batch.records
                self._release(line.batch)
            while len(self._segments) > 1 and self._segments[0].unread() is None:
                self._drop(self._segments.popleft())
            self._note_position()

    def sync(self) -> None:
        """Returns once everything appended before is on the disk. Calls at the same time share one wait.

        Raises:
            OSError: the disk failed.
        """
        with self._lock:
            wanted = self._appended
        with self._syncing:
            if self._synced >= wanted:
                return
            with self._lock:
                wanted = self._appended
                files, self._unsynced = self._unsynced, []
                is_new_file, self._is_new_file = self._is_new_file, False
            try:
                for file in files:
                    if not file.closed:
                        os.fsync(file.fileno())
                if is_new_file:
                    _sync_folder(self.folder)
            except OSError:
                with self._lock:
                    self._unsynced += files
                    self._is_new_file |= is_new_file
                raise
            self._synced = wanted
            with self._lock:
                self._close_retired()

    def close(self) -> None:
        """Makes what is left durable; if nothing is, only an empty folder stays.

        Raises:
            OSError: the disk failed.
        """
        try:
            self.sync()
        finally:
            with self._syncing, self._lock:
                if not self:
                    for segment in self._segments:
                        self._drop(segment)
                    self._segments.clear()
                self._close_retired()
                for segment in self._segments:
                    for file in segment.files.values():
                        file.close()
                if self._position >= 0:
                    os.close(self._position)
                    self._position = -1

    def _append(self, signal: Signal, line: bytes, batch: Batch, media: list[str]) -> None:
        if batch.source:
            line = with_source(line, batch.source)
        if self.bytes + len(line) > self.max_bytes:
            self._drop_delivered()
        if self.bytes + len(line) > self.max_bytes:
            raise SpoolFullError(f"{self.folder} has reached its limit of {self.max_bytes} bytes")
        was_read = not any(segment.unread() for segment in self._segments)
        segment = self._segment(signal, batch)
        file = segment.files.get(signal)
        if file is None:
            path = segment.paths[signal]
            file = segment.files[signal] = path.open("ab", buffering=0)
            segment.written[signal] = file.seek(0, os.SEEK_END)
            self._is_new_file = True
        write_whole(file, segment.paths[signal], line)
        segment.written[signal] += len(line)
        self.bytes += len(line)
        self.points += batch.points
        self.records += batch.records
        self._appended += 1
        if file not in self._unsynced:
            self._unsynced.append(file)
        self._media.update(media)
        # What is in memory comes before what is only in the files. A batch that names files is read back,
        # since they have other names then.
        fits = self._memory_bytes + batch.size <= self._max_memory
        self._holds_newest = (was_read or self._holds_newest) and fits and not media
        if self._holds_newest:
            self._memory.append(_Line(segment, signal, len(line), batch))
            self._memory_bytes += batch.size

    def _segment(self, signal: Signal, batch: Batch) -> _Segment:
        """The segment to append to."""
        last = self._segments[-1] if self._segments else None
        if (
            last is None
            or not last.files  # of an earlier process
            or last.written[signal] >= self._segment_bytes
            # A run's end comes after every point: in a file of a higher number, unless they are delivered.
            or (batch.ends and last.read["metrics"] < last.written["metrics"])
        ):
            if last is not None:
                self._retire(last)
            self._number += 1
            last = _new_segment(self.folder, self._number)
            self._segments.append(last)
        return last

    def _read(self) -> _Line | None:
        for segment in tuple(self._segments):
            signal = segment.unread()
            if signal is None:
                continue
            left = segment.written[signal] - segment.read[signal]
            try:
                with segment.paths[signal].open("rb") as file:
                    file.seek(segment.read[signal])
                    data = file.readline()
            except FileNotFoundError:
                return _Line(segment, signal, left, None)
            try:
                return _Line(segment, signal, len(data) or left, batch_of_line(data, self.folder))
            except ValueError:
                return _Line(segment, signal, len(data) or left, None)
        return None

    def _adopt(self, recovered: Callable[[Batch], None] | None) -> None:
        """Takes over what an earlier process left."""
        number, read = self._noted_position()
        found = {int(path.name.split(".")[0]) for path in self.folder.glob("[0-9]*.*.jsonl")}
        for adopted in sorted(found):
            segment = _new_segment(self.folder, adopted)
            self._number = adopted
            for signal, path in segment.paths.items():
                if path.exists():
                    segment.written[signal] = _cut_torn_line(path)
                if adopted == number:
                    segment.read[signal] = _line_start(path, read[signal], segment.written[signal])
            self.bytes += sum(segment.written.values())
            if adopted < number or segment.unread() is None:
                self._drop(segment)
            else:
                self._segments.append(segment)
                self._count(segment, recovered)
        self._number = max(self._number, number)
        media = self.folder / MEDIA
        for path in media.iterdir() if media.is_dir() else ():
            if path.name in self._media:
                self.bytes += path.stat().st_size
            else:
                path.unlink()

    def _count(self, segment: _Segment, recovered: Callable[[Batch], None] | None) -> None:
        for signal, path in segment.paths.items():
            if segment.read[signal] >= segment.written[signal]:
                continue
            with path.open("rb") as file:
                file.seek(segment.read[signal])
                for line in file:
                    try:
                        batch = batch_of_line(line, self.folder)
                    except ValueError:
                        continue  # it is told when it is to be sent
                    self.points += batch.points
                    self.records += batch.records
                    self._media.update(media_names(batch, self.folder))
                    if recovered is not None:
                        recovered(batch)

    def _release(self, batch: Batch) -> None:
        """Removes the files that no other batch names."""
        if not self._media or batch.logs is None:
            return
        for name in media_names(batch, self.folder):
            self._media[name] -= 1
            if self._media[name] > 0:
                continue
            del self._media[name]
            path = self.folder / MEDIA / name
            try:
                size = path.stat().st_size
                path.unlink()
            except OSError as error:
                log_once(f"media {self.folder}", logging.WARNING, "%s is not removed: %s", path, error)
            else:
                self.bytes -= size

    def _drop_delivered(self) -> None:
        while self._segments and self._segments[0].unread() is None:
            self._drop(self._segments.popleft())

    def _drop(self, segment: _Segment) -> None:
        for signal, path in segment.paths.items():
            self.bytes -= segment.written[signal]
            self._unsynced = [file for file in self._unsynced if file.name != str(path)]
            path.unlink(missing_ok=True)
        self._retire(segment)

    def _retire(self, segment: _Segment) -> None:
        """Closes files that nothing is appended to any more, once they are durable."""
        self._retired += segment.files.values()
        segment.files.clear()
        if len(self._unsynced) > _MOST_OPEN:  # nobody calls sync()
            for file in self._unsynced:
                os.fsync(file.fileno())
            self._unsynced.clear()
        if self._syncing.acquire(blocking=False):  # else one may be in the hands of another thread's sync()
            try:
                self._close_retired()
            finally:
                self._syncing.release()

    def _close_retired(self) -> None:
        kept: list[IO[bytes]] = []
        for file in self._retired:
            if file in self._unsynced:
                kept.append(file)
            else:
                file.close()
        self._retired = kept

    def _note_position(self) -> None:
        first = self._segments[0] if self._segments else None
        number, read = (first.number, first.read) if first else (self._number + 1, {"logs": 0, "metrics": 0})
        os.pwrite(self._position, b"%012d %015d %015d\n" % (number, read["logs"], read["metrics"]), 0)

    def _noted_position(self) -> tuple[int, dict[Signal, int]]:
        match = _POSITION.fullmatch(os.pread(self._position, 100, 0))
        if match is None:
            return 0, {"logs": 0, "metrics": 0}
        return int(match[1]), {"logs": int(match[2]), "metrics": int(match[3])}


def _new_segment(folder: Path, number: int) -> _Segment:
    paths: dict[Signal, Path] = {signal: folder / f"{number:06d}.{signal}.jsonl" for signal in _SIGNALS}
    return _Segment(number, paths)


def _cut_torn_line(path: Path) -> int:
    """Removes a last line that was not written to its end; the size then."""
    size = end = path.stat().st_size
    with path.open("rb") as file:
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                end = start + place + 1
                break
            end = start
    if end < size:
        log_once(f"torn {path}", logging.WARNING, "%s: its incomplete last line was never acknowledged", path)
        os.truncate(path, end)
    return end


def _line_start(path: Path, noted: int, size: int) -> int:
    """``noted`` if a line starts there, else the start of the file."""
    if noted == 0 or noted > size:
        return 0
    with path.open("rb") as file:
        file.seek(noted - 1)
        return noted if file.read(1) == b"\n" else 0


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
