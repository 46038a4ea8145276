"""What a delivery has still to send, in the order in which it came: in memory, in a spool, or in both."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool.frame import Entry
from tracelet_otel.delivery.spool.segment import Segment
from tracelet_otel.delivery.spool.spool import Durability, Spool, Stored
from tracelet_otel.foundation.guard import log_once

RECORD_WEIGHT = 100
"""Points that cost as much as one record, about."""
_DAMAGED = Batch()


class QueueFullError(OSError):
    """There is no room in memory, and no spool, or no room in the spool either."""


@dataclass(slots=True, eq=False)
class _Item:
    """A batch in memory."""

    batch: Batch
    """:data:`_DAMAGED`: it cannot be read back."""
    stored: Stored | None = None
    """Where it is in the spool; None: it is in memory alone."""


class Queue:
    """Batches in the order in which they came. Used by several threads.

    The oldest ones are in the spool and in memory too, so that nothing is read back while the backend keeps
    up; then come those that are in the spool alone, and last those that are in memory alone.

    Args:
        name: the backend's, for messages.
        max_bytes: what is held in memory.
        spool: where the rest goes. Without one, what does not fit is refused.
        lost: called when files of the spool were removed by others.
    """

    def __init__(
        self, name: str, *, max_bytes: int, spool: Spool | None = None, lost: Callable[[], None] | None = None
    ) -> None:
        self.last_error = ""
        """Why something is in memory alone, or refused."""
        self.spool = spool
        self.writes_first = spool is not None and spool.durability is not Durability.MEMORY
        self._name = name
        self._max_bytes = max_bytes
        self._lost = lost
        self._bytes = 0
        self._cached: deque[_Item] = deque()
        self._caches = False
        """Whether the newest one in the spool is cached, so that the next one may be."""
        self._unwritten: deque[_Item] = deque()
        self._taken: _Item | None = None
        self._lock = threading.RLock()

    def __bool__(self) -> bool:
        with self._lock:
            return bool(self._unwritten) or self.is_spooling

    @property
    def is_spooling(self) -> bool:
        """Whether the spool holds anything."""
        return self.spool is not None and bool(self.spool)

    @property
    def weight(self) -> int:
        """Points in memory alone, with a record counted as :data:`RECORD_WEIGHT`."""
        with self._lock:
            points, records = self.unwritten()
        return points + RECORD_WEIGHT * records

    def unwritten(self, source: str | None = None) -> tuple[int, int]:
        """The points and records that are in memory alone, of one source or of all."""
        with self._lock:
            batches = [item.batch for item in self._unwritten]
        ours = [batch for batch in batches if source is None or batch.source == source]
        return sum(batch.points for batch in ours), sum(batch.records for batch in ours)

    def append(self, batch: Batch, *, away: bool = False) -> None:
        """Takes a batch.

        Args:
            batch: the newest one.
            away: whether the backend takes nothing at present, so that memory alone is no place to wait.

        Raises:
            OSError: there is no place for it.
        """
        with self._lock:
            self.look_after_files()
            if self.spool is not None and (
                self.writes_first or away or self.is_spooling or not self._fits(batch)
            ):
                try:
                    self._spill()
                    self._write(_Item(batch))
                except OSError as error:
                    if self.spool.durability is Durability.DISK:
                        raise
                    self._failed(error)
                else:
                    return
            # The end of a run is small, and without it the run would stay open.
            if not self._make_room(batch) and not (batch.ends and self.writes_first):
                raise QueueFullError(self.last_error or "its queue is full")
            self._unwritten.append(_Item(batch))
            self._bytes += batch.size

    def take(self) -> Batch:
        """The oldest batch; it stays until :meth:`done`.

        Raises:
            ValueError: it is damaged; :meth:`done` removes it.
            OSError: it cannot be read now.
        """
        with self._lock:
            if self._taken is None:
                self._taken = self._oldest()
            if self._taken.batch is _DAMAGED and self.spool is not None:
                raise ValueError(f"a damaged request in {self.spool.folder}")
            return self._taken.batch

    def done(self) -> None:
        """Removes the batch that :meth:`take` gave."""
        with self._lock:
            item, self._taken = self._taken, None
            assert item is not None
            if item.stored is None:
                self._unwritten.popleft()
            elif self.spool is not None:
                self.spool.remove(item.stored)
                if not (self._cached and self._cached[0] is item):
                    return
                self._cached.popleft()
            self._bytes -= item.batch.size

    def spill(self) -> None:
        """Moves what is in memory alone to the spool, as far as that takes it."""
        with self._lock:
            try:
                self._spill()
            except OSError as error:
                self._failed(error)

    def waiting(self) -> Iterator[Entry]:
        """What is known of everything that waits.

        Raises:
            OSError: the spool cannot be read now.
        """
        with self._lock:
            if self.spool is not None:
                yield from self.spool.unread()
            yield from (Entry.of(item.batch) for item in self._unwritten)

    def look_after_files(self) -> None:
        """Notices that files of the spool were removed: what is still in memory is written again."""
        with self._lock:
            lost = self.spool.vanished() if self.spool is not None else set[Segment]()
            if not lost:
                return
            self.last_error = "files of its spool were removed"
            kept: list[_Item] = []
            again: list[_Item] = []
            taken = [self._taken] if self._taken is not None and self._taken not in self._cached else []
            for item in (*taken, *self._cached):
                is_lost = item.stored is not None and item.stored.segment in lost
                (again if is_lost and item.batch is not _DAMAGED else kept).append(item)
            self._cached = deque(item for item in kept if item not in taken)
            self._bytes += sum(item.batch.size for item in taken if item in again)
            for item in again:
                item.stored = None
            self._unwritten.extendleft(reversed(again))
            self.spill()
            if self._lost is not None:
                self._lost()

    def close(self) -> bool:
        """Ends the spool, and moves there what is in memory alone; whether nothing was lost by that."""
        with self._lock:
            if self.spool is None:
                return not self._unwritten
            self.look_after_files()
            failed = False
            for item in self._unwritten:
                if not failed or item.batch.ends:  # without its end a run would stay open
                    try:
                        self._write(item)
                    except OSError as error:
                        self._failed(error)
                        failed = True
            self._unwritten.clear()
            try:
                self.spool.close()
            except OSError as error:
                self._failed(error)
            return not failed

    def _oldest(self) -> _Item:
        if self._cached:
            return self._cached[0]
        found = self.spool.next() if self.spool is not None else None
        if found is None:
            return self._unwritten[0]
        return _Item(found[1] or _DAMAGED, found[0])

    def _spill(self) -> None:
        """Writes what is in memory alone, oldest first, so that the order stays.

        Raises:
            OSError: the spool does not take it.
        """
        while self._unwritten:
            item = self._unwritten[0]
            self._write(item)
            self._unwritten.popleft()
            self._bytes -= item.batch.size

    def _write(self, item: _Item) -> None:
        assert self.spool is not None
        was_empty = not self.spool
        item.stored = self.spool.append(item.batch)
        # What is cached comes before what is only in the spool. A batch that names files is read back, since
        # they have other names then.
        names_files = item.stored.entry is None or item.stored.entry.media
        may_cache = self.writes_first and (was_empty or self._caches) and not names_files
        self._caches = may_cache and self._fits(item.batch)
        if self._caches:
            self._cached.append(item)
            self._bytes += item.batch.size

    def _fits(self, batch: Batch) -> bool:
        return self._bytes + batch.size <= self._max_bytes

    def _make_room(self, batch: Batch) -> bool:
        """Forgets what is in the spool too, the newest first, until a batch fits; whether it does."""
        while not self._fits(batch) and self._cached:
            item = self._cached.pop()
            self._caches = False
            self._bytes -= item.batch.size
        return self._fits(batch)

    def _failed(self, error: OSError) -> None:
        self.last_error = f"its spool cannot be written: {error}"
        log_once(
            f"spool {self._name}",
            logging.ERROR,
            "%s: cannot write the spool, what does not fit into memory is lost: %s",
            self._name,
            error,
        )
