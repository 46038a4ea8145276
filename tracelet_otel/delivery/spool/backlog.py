"""What a delivery has still to send: in memory while the backend keeps up, else in its spool."""

from __future__ import annotations

import logging
from collections import deque

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool.durable import DurableSpool
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.foundation.guard import log_once

RECORD_WEIGHT = 100
"""Points that cost as much as one record, about."""


class Backlog:
    """Batches in the order in which they came. Not thread-safe: its delivery holds a lock.

    Everything in the spool is older than everything in memory, but for the one batch that is being sent.

    Args:
        name: the backend's, for messages.
        max_bytes: what is held in memory.
        spool: where the rest goes. None: there is none, and what does not fit is refused.
    """

    def __init__(self, name: str, *, max_bytes: int, spool: Spool | None) -> None:
        self.last_error = ""
        self.weight = 0
        """Points in memory, with a record counted as :data:`RECORD_WEIGHT`."""
        self._name = name
        self._max_bytes = max_bytes
        self._spool = spool
        self._memory: deque[Batch] = deque()
        self._bytes = 0
        self._sent: Batch | None = None
        """The batch that is being sent, if it came from memory."""

    def __bool__(self) -> bool:
        return bool(self._memory) or self._sent is not None or self.is_spooling

    @property
    def is_spooling(self) -> bool:
        """Whether the spool holds anything."""
        return self._spool is not None and bool(self._spool)

    def add(self, batch: Batch, *, away: bool) -> bool:
        """Takes a batch, or says that there is no place for it.

        Args:
            batch: the newest one.
            away: whether the backend takes nothing at present, so that memory is no place to wait.
        """
        if self._spool is not None and (away or self.is_spooling or self._is_full(batch)):
            self.spill()
            if not self._memory and self._to_spool(batch):
                return True
        if self._is_full(batch):
            self.last_error = self.last_error or "its queue is full"
            return False
        self._memory.append(batch)
        self._bytes += batch.size
        self.weight += batch.points + RECORD_WEIGHT * batch.records
        return True

    def take(self) -> Batch:
        """The oldest batch; it stays until :meth:`done`.

        Raises:
            OSError, ValueError: the spool's oldest line cannot be read; :meth:`done` removes it.
        """
        if self._spool is not None and self.is_spooling:
            batch = self._spool.peek()
            if batch is not None:
                return batch
        self._sent = self._memory.popleft()
        return self._sent

    def done(self) -> None:
        """Removes the batch that :meth:`take` gave."""
        if self._sent is not None:
            self._forget(self._sent)
            self._sent = None
        elif self._spool is not None:
            self._spool.remove()

    def spill(self) -> None:
        """Moves what waits in memory to the spool, as far as that takes it."""
        while self._memory and self._to_spool(self._memory[0]):
            self._forget(self._memory.popleft())

    def spill_all(self) -> bool:
        """The same with the batch that is being sent: it will not be waited for. Whether all was taken."""
        is_lost = False
        if self._spool is not None and self._sent is not None:
            batch, self._sent = self._sent, None
            self._forget(batch)
            try:
                self._spool.prepend(batch)
            except OSError as error:
                self._failed(error)
                is_lost = True
        self.spill()
        return not (is_lost or self._memory)

    def close(self) -> tuple[int, int]:
        """Ends the spool; the points and records that it holds."""
        if self._spool is None:
            return 0, 0
        try:
            self._spool.close()
        except OSError as error:
            self._failed(error)
        return self._spool.points, self._spool.records

    def _is_full(self, batch: Batch) -> bool:
        return self._bytes + batch.size > self._max_bytes

    def _to_spool(self, batch: Batch) -> bool:
        if self._spool is None:
            return False
        try:
            self._spool.append(batch)
        except OSError as error:
            self._failed(error)
            return False
        return True

    def _failed(self, error: OSError) -> None:
        self.last_error = f"its spool cannot be written: {error}"
        log_once(
            f"spool {self._name}",
            logging.ERROR,
            "%s: cannot write the spool, what does not fit into memory is lost: %s",
            self._name,
            error,
        )

    def _forget(self, batch: Batch) -> None:
        self._bytes -= batch.size
        self.weight -= batch.points + RECORD_WEIGHT * batch.records


class DurableBacklog:
    """The same where everything goes through the spool: what is not acknowledged is not lost here.

    Args:
        name: the backend's, for messages.
        spool: that batches are appended to, by the delivery.
    """

    is_spooling = False
    weight = 0

    def __init__(self, name: str, spool: DurableSpool) -> None:
        self.last_error = ""
        self._name = name
        self._spool = spool

    def __bool__(self) -> bool:
        return bool(self._spool)

    def add(self, batch: Batch, *, away: bool) -> bool:
        """Takes a batch."""
        self._spool.append(batch)
        return True

    def take(self) -> Batch:
        """As of :meth:`Backlog.take`."""
        batch = self._spool.peek()
        assert batch is not None
        return batch

    def done(self) -> None:
        """Removes the batch that :meth:`take` gave."""
        self._spool.remove()

    def spill_all(self) -> bool:
        """Everything is in the spool."""
        return True

    def close(self) -> tuple[int, int]:
        """Ends the spool; the points and records that it holds."""
        try:
            self._spool.close()
        except OSError as error:
            self.last_error = f"its spool cannot be written: {error}"
            log_once(f"spool {self._name}", logging.ERROR, "%s: %s", self._name, self.last_error)
        return self._spool.points, self._spool.records
