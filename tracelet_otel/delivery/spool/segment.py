"""The segments of a spool: files of frames, each with its index, and how far they were delivered."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool.frame import Entry, Frame, head_of, index_of, indexed, scan
from tracelet_otel.delivery.spool.media import located
from tracelet_otel.foundation.guard import log_once

POSITION: Final = "position"
_POSITION: Final = re.compile(rb"(\d{12}) (\d{15})(?: (\d{15}))?\n")


class Stored(NamedTuple):
    """A request in a segment."""

    segment: Segment
    size: int
    """Bytes of its frame, or of what is damaged."""
    entry: Entry | None
    """None: it is damaged, and nothing is known of it."""


class Segment:
    """A file of frames. Not thread-safe: its spool's user holds a lock.

    Args:
        folder: the spool's.
        number: lower ones are older.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self.path = folder / f"{number:06d}.otlp"
        self.index = self.path.with_suffix(".index")
        self.size = 0
        """Bytes that were written."""
        self.read = 0
        """Bytes that were delivered."""
        self.index_size = 0
        self.points = 0
        """Points that were written and not delivered, as far as is known; likewise the records."""
        self.records = 0
        self.takes_more = False
        """Whether it is appended to."""

    @property
    def unread(self) -> int:
        """Bytes that are not delivered."""
        return self.size - self.read

    def create(self) -> None:
        """Makes the file, to append to.

        Raises:
            OSError: it cannot be made.
        """
        with self.path.open("ab", buffering=0) as file:
            self.size = self.read = file.seek(0, os.SEEK_END)
        self.takes_more = True

    def append(self, entry: Entry, data: bytes) -> Stored:
        """Appends a frame, or nothing.

        Raises:
            OSError: the disk is full, or the file cannot be written to.
        """
        frame = head_of(entry, data, self.size) + data
        with self.path.open("r+b", buffering=0) as file:
            file.seek(self.size)
            written = 0
            try:
                written = file.write(frame)
            finally:
                if written < len(frame):
                    with contextlib.suppress(OSError):  # what comes next is written over it
                        file.truncate(self.size)
        if written < len(frame):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.size += len(frame)
        self.points += entry.points
        self.records += entry.records
        return Stored(self, len(frame), entry)

    def adopt(self, read: int) -> Iterator[Frame]:
        """Takes over what an earlier process left; the frames that it had not delivered.

        A frame that it could not finish was never acknowledged, and is left out.

        Raises:
            OSError: it cannot be read now.
        """
        with self.path.open("rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            frames = indexed(self.index, file, size)
        self.size = frames[-1].end if frames else 0
        if self.size < size:
            log_once(f"torn {self.path}", logging.WARNING, "%s: its last request is incomplete", self.path)
        with contextlib.suppress(OSError):
            self.index_size = self.index.stat().st_size
        self.read = read if read in {0, self.size, *(frame.start for frame in frames)} else 0
        for frame in frames:
            if frame.start >= self.read:
                self.points += frame.entry.points
                self.records += frame.entry.records
                yield frame

    def frames(self) -> list[Frame]:
        """The frames that are not delivered.

        Raises:
            OSError: it cannot be read now.
        """
        with self.path.open("rb", buffering=0) as file:
            return list(scan(file, self.read, self.size))

    def load(self, frame: Frame) -> Batch | None:
        """The batch of a frame; None: it is damaged.

        Raises:
            OSError: it cannot be read now.
        """
        with self.path.open("rb", buffering=0) as file:
            return self._load(file, frame)

    def next(self) -> tuple[Stored, Batch | None]:
        """The oldest request that is not delivered; without a batch if it is damaged.

        Raises:
            OSError: it cannot be read now.
        """
        with self.path.open("rb", buffering=0) as file:
            frame = next(scan(file, self.read, self.size), None)
            if frame is None:
                return Stored(self, self.unread, None), None
            if frame.start > self.read:
                return Stored(self, frame.start - self.read, None), None
            return Stored(self, frame.end - frame.start, frame.entry), self._load(file, frame)

    def advance(self, size: int, points: int, records: int) -> None:
        """So many more bytes, with these points and records, are delivered or lost."""
        self.read += size
        self.points -= points
        self.records -= records

    def seal(self) -> None:
        """Ends appending, and writes the index. Without one, a start reads the segment."""
        if not self.takes_more:
            return
        self.takes_more = False
        try:
            with self.path.open("rb", buffering=0) as file:
                self.index_size = self.index.write_bytes(index_of(scan(file, 0, self.size), file))
        except OSError as error:
            log_once(f"index {self.folder}", logging.WARNING, "%s is not written: %s", self.index, error)

    def remove(self) -> None:
        """Removes the files. What cannot be removed now is when the next process starts."""
        try:
            self.path.unlink(missing_ok=True)
            self.index.unlink(missing_ok=True)
        except OSError as error:
            log_once(f"remove {self.folder}", logging.WARNING, "%s is not removed: %s", self.path, error)

    def _load(self, file: IO[bytes], frame: Frame) -> Batch | None:
        data = frame.request(file)
        if data is None:
            return None
        return frame.entry.batch(located(data, self.folder) if frame.entry.media else data)


class Place(NamedTuple):
    """How far a spool is delivered: every segment below a number, and some bytes of that one."""

    number: int = 0
    offset: int = 0
    lines: tuple[int, int] = (0, 0)
    """In place of the offset, bytes of the files of log records and of metrics, of the version before."""


class Position:
    """The file that says how far a spool is delivered.

    Each note is one small write: a process that is killed leaves the file whole. One that is not written
    costs a repetition at most.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / POSITION

    def note(self, number: int, offset: int) -> None:
        """Every segment below ``number`` is delivered, and so many bytes of that one."""
        try:
            with self._path.open("r+b" if self._path.exists() else "wb", buffering=0) as file:
                file.truncate(file.write(b"%012d %015d\n" % (number, offset)))
        except OSError as error:
            log_once(f"note {self._path}", logging.WARNING, "%s is not written: %s", self._path, error)

    def noted(self) -> Place:
        """What was noted last; the start if that says nothing.

        Raises:
            OSError: it cannot be read now.
        """
        try:
            match = _POSITION.fullmatch(self._path.read_bytes())
        except FileNotFoundError:
            match = None
        if match is None:
            return Place()
        number, first, second = match.groups()
        if second is None:
            return Place(int(number), int(first))
        return Place(int(number), lines=(int(first), int(second)))
