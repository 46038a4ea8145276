"""A spool that everything goes through: on disk before it is acknowledged, and across restarts.

Its files are those of :mod:`tracelet_otel.delivery.spool.spool`. Beside them ``position`` says how far they
were delivered, so that the next process goes on there. What a process has just appended it also keeps in
memory, so that nothing is read back from the disk while the backend keeps up; behind that only the place in
the files is kept, so that memory does not grow with what waits.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool.group_commit import GroupCommit
from tracelet_otel.delivery.spool.kept_files import KeptFiles
from tracelet_otel.delivery.spool.lines import (
    encode_logs,
    encode_metrics,
    media_names,
    with_source,
    write_whole,
)
from tracelet_otel.delivery.spool.segments import Line, Position, Segment, adopted, new_segment, oldest
from tracelet_otel.delivery.spool.spool import SEGMENT_BYTES, SpoolFullError
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.json import Signal

_SHARE: Final = 16
"""A file has at most this part of the limit, so that what is delivered soon makes room."""

_END_BYTES: Final = 64 * 1024
"""What the ends of runs may add to the limit where nobody sends them again."""


class DurableSpool:
    """A spool that everything goes through; used by several threads of one process.

    Args:
        folder: made if it is not there; what is in it goes on to be delivered.
        max_bytes: what it may hold, media included; beyond it nothing is appended.
        max_memory_bytes: what is also kept in memory.
        goes_on: whether memory takes, up to the same bound once more, what the disk does not: for whoever
            promises no more than to deliver it, if the backend takes it.
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
        goes_on: bool = False,
        recovered: Callable[[Batch], None] | None = None,
    ) -> None:
        self.folder = folder
        self.points = 0
        """Points that were appended and not removed."""
        self.records = 0
        self.bytes = 0
        """Bytes on disk, of what is delivered too until its file is removed."""
        self.max_bytes = max_bytes
        self._segment_bytes = max(1, min(SEGMENT_BYTES, max_bytes // _SHARE))
        self._max_memory = max_memory_bytes
        self._memory: deque[Line] = deque()
        self._memory_bytes = 0
        self._goes_on = goes_on
        self._unwritten: deque[Line] = deque()
        """In memory alone, newer than everything else."""
        self._unwritten_bytes = 0
        self.disk_error = ""
        """Why something is in memory alone."""
        self._holds_newest = False
        """Whether the newest line is in memory, so that the next one may be."""
        self._taken: Line | None = None
        self._segments: deque[Segment] = deque()
        self._number = 0
        self._media = KeptFiles(folder)
        self._lock = threading.RLock()
        self._commit = GroupCommit(folder, self._lock)
        folder.mkdir(parents=True, exist_ok=True)
        self._position = Position(folder)
        try:
            self._adopt(recovered)
        except BaseException:
            self._position.close()
            raise

    def __bool__(self) -> bool:
        with self._lock:
            return bool(self._unwritten) or any(segment.unread() for segment in self._segments)

    def append(self, batch: Batch) -> None:
        """Appends OTLP bytes; they are in the hands of the operating system then, see :meth:`sync`.

        Raises:
            SpoolFullError: the limit is reached.
            OSError: the disk is full or the folder cannot be written to; nothing was appended.
        """
        with self._lock:
            if self._unwritten and self._keep(batch):  # what comes later must not overtake it
                return
            try:
                self._write(batch)
            except OSError as error:
                if not self._keep(batch):
                    raise
                self.disk_error = f"its spool cannot be written: {error}"
                log_once(f"unwritten {self.folder}", logging.ERROR, "kept in memory alone: %s", error)

    def _keep(self, batch: Batch) -> bool:
        """Keeps a batch in memory alone, if there is room."""
        if not self._goes_on or self._unwritten_bytes + batch.size > self._max_memory:
            return False
        self._unwritten.append(Line(None, "logs" if batch.metrics is None else "metrics", 0, batch))
        self._unwritten_bytes += batch.size
        self.points += batch.points
        self.records += batch.records
        return True

    def _write(self, batch: Batch) -> None:
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

    def unwritten(self, source: str) -> tuple[int, int]:
        """The points and records of one source that are in memory alone, and lost if this process ends."""
        with self._lock:
            batches = [line.batch for line in self._unwritten if line.batch and line.batch.source == source]
        return sum(batch.points for batch in batches), sum(batch.records for batch in batches)

    def peek(self) -> Batch | None:
        """The oldest batch that was not removed.

        Raises:
            ValueError: it cannot be read back, and never will be.
            OSError: it cannot be read back now.
        """
        with self._lock:
            if self._taken is None:
                self._taken = self._memory[0] if self._memory else oldest(self._segments, self.folder)
            if self._taken is None and self._unwritten:
                self._taken = self._unwritten[0]
            if self._taken is not None and self._taken.batch is None:
                assert self._taken.segment is not None
                raise ValueError(f"a line in {self._taken.segment.paths[self._taken.signal]} is no OTLP")
            return self._taken.batch if self._taken is not None else None

    def remove(self) -> None:
        """Removes the batch that :meth:`peek` gave, or never can give."""
        with self._lock:
            line = self._taken
            assert line is not None
            self._taken = None
            if line.segment is None:
                self._forget(self._unwritten.popleft())
                return
            if self._memory and self._memory[0] is line:
                self._memory.popleft()
                self._memory_bytes -= line.batch.size if line.batch else 0
            line.segment.read[line.signal] += line.length
            if line.batch is not None:
                self.points -= line.batch.points
                self.records -= line.batch.records
                self.bytes -= self._media.release(line.batch)
            while len(self._segments) > 1 and self._segments[0].unread() is None:
                self._drop(self._segments.popleft())
            first = self._segments[0]
            self._position.note(first.number, first.read)

    def sync(self) -> None:
        """Returns once everything appended before is on the disk. Calls at the same time share one wait.

        Raises:
            OSError: the disk failed.
        """
        self._commit.sync()

    def close(self) -> None:
        """Makes what is left durable; if nothing is, only an empty folder stays.

        Raises:
            OSError: the disk failed.
        """
        try:
            self._write_what_was_kept()
            self.sync()
        finally:
            with self._lock:
                if not self:
                    self._drop_delivered()
                files = [file for segment in self._segments for file in segment.files.values()]
                self._position.close()
            self._commit.close(files)

    def _forget(self, line: Line) -> None:
        """Counts no more what is in memory alone."""
        assert line.batch is not None
        self._unwritten_bytes -= line.batch.size
        self.points -= line.batch.points
        self.records -= line.batch.records

    def _write_what_was_kept(self) -> None:
        """The disk may have room by now.

        Raises:
            OSError: it has not; what is in memory alone is lost, and not counted any more.
        """
        with self._lock:
            self._taken = None
            lines, self._unwritten = list(self._unwritten), deque()
            for line in lines:
                self._forget(line)
            failed: OSError | None = None
            for line in lines:
                assert line.batch is not None
                if failed is None or line.batch.ends:  # without its end a run would stay open after a replay
                    try:
                        self._write(line.batch)
                    except OSError as error:
                        failed = failed or error
            if failed is not None:
                raise failed

    def _append(self, signal: Signal, line: bytes, batch: Batch, media: list[str]) -> None:
        if batch.source:
            line = with_source(line, batch.source)
        limit = self.max_bytes + (_END_BYTES if batch.ends and self._goes_on else 0)
        if self.bytes + len(line) > limit:
            self._drop_delivered()
        if self.bytes + len(line) > limit:
            raise SpoolFullError(
                f"{self.folder} has reached its limit of {self.max_bytes} bytes (TRACELET_MAX_SPOOL_BYTES)"
            )
        was_read = not any(segment.unread() for segment in self._segments)
        segment = self._segment(signal, batch)
        file = segment.files.get(signal)
        is_new = file is None
        if file is None:
            file = segment.open(signal)
        write_whole(file, segment.paths[signal], line)
        self._commit.wrote(file, is_new=is_new)
        segment.written[signal] += len(line)
        self.bytes += len(line)
        self.points += batch.points
        self.records += batch.records
        self._media.add(media)
        # What is in memory comes before what is only in the files. A batch that names files is read back,
        # since they have other names then.
        fits = self._memory_bytes + batch.size <= self._max_memory
        self._holds_newest = (was_read or self._holds_newest) and fits and not media
        if self._holds_newest:
            self._memory.append(Line(segment, signal, len(line), batch))
            self._memory_bytes += batch.size

    def _segment(self, signal: Signal, batch: Batch) -> Segment:
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
            last = new_segment(self.folder, self._number)
            self._segments.append(last)
        return last

    def _adopt(self, recovered: Callable[[Batch], None] | None) -> None:
        """Takes over what an earlier process left."""
        self._number = self._position.noted()[0]
        for segment in adopted(self.folder, self._position):
            self._number = max(self._number, segment.number)
            self.bytes += sum(segment.written.values())
            if segment.unread() is None:
                self._drop(segment)
            else:
                self._segments.append(segment)
                self._count(segment, recovered)
        self.bytes += self._media.adopt()

    def _count(self, segment: Segment, recovered: Callable[[Batch], None] | None) -> None:
        for batch in segment.unread_batches(self.folder):
            self.points += batch.points
            self.records += batch.records
            self._media.add(media_names(batch, self.folder))
            if recovered is not None:
                recovered(batch)

    def _drop_delivered(self) -> None:
        while self._segments and self._segments[0].unread() is None:
            self._drop(self._segments.popleft())

    def _drop(self, segment: Segment) -> None:
        self._commit.forget(segment.paths.values())
        for signal, path in segment.paths.items():
            self.bytes -= segment.written[signal]
            path.unlink(missing_ok=True)
        self._retire(segment)

    def _retire(self, segment: Segment) -> None:
        files = list(segment.files.values())
        segment.files.clear()
        self._commit.retire(files)
