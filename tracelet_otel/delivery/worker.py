"""The thread of a delivery: sends what is queued, in order, whatever goes wrong."""

from __future__ import annotations

import threading
import time

from tracelet_otel.delivery.counts import Counts, SourceCounts
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.link import Link
from tracelet_otel.delivery.spool.queue import Queue
from tracelet_otel.delivery.urgency import FIRST_BACKOFF_S, Urgency
from tracelet_otel.foundation.errors import TransientError

BEHIND_POINTS = 20_000
"""Queued points from which on a delivery works without rest: about two seconds of work for a slow tracker,
which is what an exit may have to wait for."""


class Worker:
    """Takes batches from a queue and sends them; begins at once.

    Args:
        name: the backend's.
        queue: from which.
        link: by which.
        urgency: of the delivery, whose condition guards everything here.
        counts: of what was delivered.
        sources: the same by source.
        rests: whether it leaves most of the interpreter's time to others while it is not behind.
    """

    def __init__(
        self,
        name: str,
        queue: Queue,
        link: Link,
        urgency: Urgency,
        counts: Counts,
        sources: SourceCounts,
        rests: bool,
    ) -> None:
        self._name = f"tracelet-{name}"
        self._queue = queue
        self._link = link
        self._urgency = urgency
        self._condition = urgency.condition
        self._counts = counts
        self._sources = sources
        self._rests = rests
        self._has_ended = False
        """Whether there is nothing more to do."""
        self._thread = self._started()

    @property
    def is_dead(self) -> bool:
        """Whether the thread has ended though there is more to do."""
        return not (self._thread.is_alive() or self._has_ended)

    def revive(self) -> None:
        """Starts the thread again if it is dead."""
        if self.is_dead:
            self._thread = self._started()

    def join(self, timeout: float) -> None:
        """Waits for the end of the thread."""
        self._thread.join(timeout)

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        while not self._has_ended:
            try:
                self._has_ended = not self._deliver_next()
            except BaseException as error:  # whatever it is: nothing would be delivered any more
                with self._condition:
                    self._link.fail(error)
                    self._condition.wait_for(lambda: self._urgency.abandoned, FIRST_BACKOFF_S)
        self._link.close()

    def _deliver_next(self) -> bool:
        """Waits for a batch and delivers it; whether there may be more."""
        link = self._link
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._urgency.abandoned)
            if self._urgency.abandoned:
                return False
            batch = self._take()
            link.begin()
        if not link.open() and self._queue.spool is not None:
            return self._cannot_be_used()
        link.is_unusable = False
        started = time.thread_time()
        receipt = link.send(batch) if link.is_open and batch is not None else None
        with self._condition:
            if self._urgency.abandoned:  # it is in the spool; the closing line is out
                return False
            self._queue.done()
            link.done()
            if receipt is not None:
                self._counts.deliver(receipt)
            if batch is not None:
                self._sources.settle(batch, receipt)
            if not self._queue:
                self._sources.wait_only(())
            self._condition.notify_all()
            if self._rests:
                self._urgency.rest(time.thread_time() - started, self._is_behind)
        return True

    def _take(self) -> Batch | None:
        """The oldest batch; None: it is damaged."""
        try:
            return self._queue.take()
        except ValueError as error:
            self._link.note(error)
            return None
        except OSError as error:
            raise TransientError(f"its spool cannot be read: {error}") from error

    def _cannot_be_used(self) -> bool:
        """The backend cannot be used as it is set up; whether it is tried again.

        Where everything is in the spool anyway, the process stays, and a person may mend it. Else everything
        goes there, and waits for a replay.
        """
        is_tried_again = self._queue.writes_first
        with self._condition:
            self._link.give_up()
            if not is_tried_again and not self._urgency.abandoned:
                self._queue.spill()
            self._condition.notify_all()
            if is_tried_again:
                self._urgency.stand_by()
        return is_tried_again

    def _is_behind(self) -> bool:
        return self._queue.weight > BEHIND_POINTS or self._queue.is_spooling
