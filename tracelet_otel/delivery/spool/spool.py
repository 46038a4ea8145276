"""The spool: on disk, in order, what a backend has not taken yet.

A spool is a folder of numbered segments of OTLP protobuf, each with an index, see
:mod:`tracelet_otel.delivery.spool.frame`; ``position`` says how far they are delivered. Payloads that are
files lie in ``media/``, named by their SHA-256, so that a spool can be moved to another machine as a whole.
Of a spool that waits for several backends, ``routes.json`` says which of them get a part of it, and which.
"""

from __future__ import annotations

import enum
import json
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool import SpoolFullError
from tracelet_otel.delivery.spool.conversion import convert
from tracelet_otel.delivery.spool.frame import Entry, Frame
from tracelet_otel.delivery.spool.group_commit import GroupCommit
from tracelet_otel.delivery.spool.media import Media, Payloads
from tracelet_otel.delivery.spool.segment import Position, Segment, Stored
from tracelet_otel.foundation.guard import log_once

ROUTES: Final = "routes.json"
"""By backend the options of its :class:`~tracelet_otel.delivery.routing.Route`."""
SEGMENT_BYTES: Final = 16 * 1024 * 1024
"""A segment is followed by the next one beyond this size."""
_SHARE: Final = 16
"""A segment has at most this part of the limit, so that what is delivered soon makes room."""
_END_BYTES: Final = 64 * 1024
"""What the ends of runs may add to the limit where they are not sent again."""


class Durability(enum.Enum):
    """What a batch survives once it is taken."""

    MEMORY = "memory"
    """A backend that is away, or slow: the spool has what memory has no place for."""
    PROCESS = "process"
    """The end of this process: it is written first, or kept in memory where the disk takes nothing."""
    DISK = "disk"
    """Also the loss of power, after :meth:`Spool.sync`: what is not written is not taken."""


class Spool:
    """The files of a spool. Not thread-safe: its queue holds a lock; but for :meth:`sync`.

    Args:
        folder: what an earlier process left in it goes on to be delivered.
        max_bytes: what it may hold, media included; beyond it nothing is appended.
        durability: with :attr:`Durability.MEMORY` the folder is made with the first batch and removed by
            :meth:`close` once it is empty; else it is made now and stays.
        routes: for :data:`ROUTES`.
        recovered: called with each request that an earlier process left, in order, and with what reads it.

    Raises:
        OSError: the folder cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        durability: Durability = Durability.MEMORY,
        routes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        recovered: Callable[[Entry, Callable[[], Batch | None]], None] | None = None,
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.durability = durability
        self._routes = routes
        self._segments: deque[Segment] = deque()
        self._number = 0
        self._older_bytes = 0
        """Of all segments but the last."""
        self._media = Media(folder)
        self._position = Position(folder)
        self._commit = GroupCommit(self._is_gone)
        if durability is not Durability.MEMORY:
            folder.mkdir(parents=True, exist_ok=True)
        if folder.is_dir():
            self._adopt(recovered)

    def __bool__(self) -> bool:
        return any(segment.unread for segment in tuple(self._segments))

    @property
    def points(self) -> int:
        """Points that were appended and not delivered."""
        return sum(segment.points for segment in tuple(self._segments) if segment.unread)

    @property
    def records(self) -> int:
        """Records that were appended and not delivered."""
        return sum(segment.records for segment in tuple(self._segments) if segment.unread)

    @property
    def bytes(self) -> int:
        """Bytes on disk, of what is delivered too until its file is removed."""
        last = self._segments[-1] if self._segments else None
        return self._older_bytes + (last.size + last.index_size if last else 0) + self._media.bytes

    def append(self, batch: Batch) -> Stored:
        """Appends OTLP bytes; they are in the hands of the operating system then, see :meth:`sync`.

        Raises:
            SpoolFullError: the limit is reached.
            OSError: the disk is full or the folder cannot be written to; nothing was appended.
        """
        payloads = Payloads(batch.request) if batch.logs is None else self._media.of(batch.request)
        self._make_room(len(payloads.data) + payloads.size, batch.ends)
        segment = self._open_segment()
        entry = Entry.of(batch, payloads.names)
        self._media.keep(payloads)
        try:
            stored = segment.append(entry, payloads.data)
        except BaseException:
            self._media.release(entry.media)
            raise
        if payloads.copies:
            self._commit.changed(self._media.folder, *(target for _, target in payloads.copies))
        self._commit.changed(segment.path)
        return stored

    def next(self) -> tuple[Stored, Batch | None] | None:
        """The oldest request that is not delivered; without a batch if that is damaged.

        Raises:
            OSError: it cannot be read now.
        """
        segment = next((segment for segment in self._segments if segment.unread), None)
        return segment.next() if segment is not None else None

    def remove(self, stored: Stored) -> None:
        """The oldest request is delivered, or lost."""
        entry = stored.entry or Entry("logs")
        stored.segment.advance(stored.size, entry.points, entry.records)
        self._media.release(entry.media)
        while len(self._segments) > 1 and not self._segments[0].unread:
            self._drop(self._segments.popleft())
        if self._segments:
            self._position.note(self._segments[0].number, self._segments[0].read)

    def vanished(self) -> set[Segment]:
        """Forgets the segments whose files were removed by others, and returns them."""
        ends = {self._segments[0], self._segments[-1]} if self._segments else set[Segment]()
        if all(segment.path.exists() for segment in ends):
            return set()
        lost = {segment for segment in self._segments if not segment.path.exists()}
        if any(segment.unread for segment in lost):
            log_once(
                f"vanished {self.folder}", logging.ERROR, "%s: files that waited were removed", self.folder
            )
        self._segments = deque(segment for segment in self._segments if segment not in lost)
        self._count()
        for segment in lost:
            segment.remove()
        if not self._segments:
            self._media = Media(self.folder)
        return lost

    def unread(self) -> Iterator[Entry]:
        """What is known of each request that is not delivered.

        Raises:
            OSError: a segment cannot be read now.
        """
        for segment in self._segments:
            if segment.unread:
                yield from (frame.entry for frame in segment.frames())

    def sync(self) -> None:
        """Returns once everything appended before is on the disk. Calls at the same time share one wait.

        Raises:
            OSError: the disk failed.
        """
        self._commit.sync()

    def close(self) -> None:
        """Makes what is left durable; without any, removes what may be removed.

        Raises:
            OSError: the disk failed.
        """
        if self:
            for segment in self._segments:
                segment.seal()
            self.sync()
        else:
            self._drop_delivered()
        if self.durability is Durability.MEMORY and not self._segments and self._number:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _make_room(self, size: int, ends: bool) -> None:
        limit = self.max_bytes + (_END_BYTES if ends and self.durability is Durability.PROCESS else 0)
        if self.bytes + size > limit:
            self._drop_delivered()
        if self.bytes + size > limit:
            raise SpoolFullError(
                f"{self.folder} has reached its limit of {self.max_bytes} bytes (TRACELET_MAX_SPOOL_BYTES)"
            )

    def _open_segment(self) -> Segment:
        """The segment to append to."""
        last = self._segments[-1] if self._segments else None
        if last is not None and last.takes_more:
            if last.size < max(1, min(SEGMENT_BYTES, self.max_bytes // _SHARE)):
                return last
            last.seal()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._routes and not (self.folder / ROUTES).exists():
            draft = self.folder / f"{ROUTES}.new"  # all of it or nothing, also where the disk is full
            draft.write_text(json.dumps(self._routes))
            draft.replace(self.folder / ROUTES)
        self._number += 1
        segment = Segment(self.folder, self._number)
        segment.create()
        self._commit.changed(self.folder)
        self._segments.append(segment)
        self._count()
        return segment

    def _adopt(self, recovered: Callable[[Entry, Callable[[], Batch | None]], None] | None) -> None:
        """Takes over what an earlier process left."""
        place = self._position.noted()
        convert(self.folder, place)
        self._number = place.number
        for path in sorted(self.folder.glob("[0-9]*.otlp")):
            segment = Segment(self.folder, int(path.stem))
            self._number = max(self._number, segment.number)
            if segment.number < place.number:
                segment.remove()
                continue
            for frame in segment.adopt(place.offset if segment.number == place.number else 0):
                self._media.add(frame.entry.media)
                if recovered is not None:
                    recovered(frame.entry, _loader(segment, frame))
            if segment.unread:
                self._segments.append(segment)
            else:
                segment.remove()
        self._media.adopt()
        self._count()
        if place.lines != (0, 0):
            self._position.note(place.number, 0)

    def _drop_delivered(self) -> None:
        while self._segments and not self._segments[0].unread:
            self._drop(self._segments.popleft())

    def _drop(self, segment: Segment) -> None:
        segment.remove()
        self._count()
        self._commit.changed(self.folder)

    def _count(self) -> None:
        sizes = [segment.size + segment.index_size for segment in self._segments]
        self._older_bytes = sum(sizes[:-1])

    def _is_gone(self, path: Path) -> bool:
        return path != self.folder and all(path != segment.path for segment in tuple(self._segments))


def _loader(segment: Segment, frame: Frame) -> Callable[[], Batch | None]:
    return lambda: segment.load(frame)
