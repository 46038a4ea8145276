"""Queue, retry and spool around one destination, in a thread of its own: no backend waits for another."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict

from tracelet_otel.delivery.counts import Counts, SourceCounts
from tracelet_otel.delivery.destination import Batch, Destination
from tracelet_otel.delivery.link import LOADING_TIMEOUT_S, Link
from tracelet_otel.delivery.routing import Route
from tracelet_otel.delivery.spool.queue import Queue
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.delivery.summary import BackendReport
from tracelet_otel.delivery.urgency import Urgency
from tracelet_otel.delivery.worker import Worker
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.json import Signal

BOTH: frozenset[Signal] = frozenset({"metrics", "logs"})


class Delivery:
    """Takes batches without ever blocking, and sends them in order from its own thread.

    Args:
        name: the backend's name, for messages.
        destination: where to.
        max_queue_bytes: what is in memory; what is queued beyond this goes to the spool.
        spool: where batches go that the backend does not take. None, or one that is full or cannot be
            written: they are dropped and counted, newest first. With another durability than that of memory
            it gets every batch, before :meth:`put` returns, and what an earlier process left in it is sent
            first.
        route: what the backend gets; None is everything.
        rests: whether it leaves most of the interpreter's time to others while it is not behind.
        left: what an earlier process left in the spool, for the counts of its sources.
        takes_all: whether it gets what no tracker shows too: other people's log records, and now and then the
            live value of series without new points.
        signals: which of both it gets.
    """

    def __init__(
        self,
        name: str,
        destination: Destination,
        *,
        max_queue_bytes: int,
        spool: Spool | None = None,
        route: Route | None = None,
        rests: bool = True,
        left: Sequence[Batch] = (),
        takes_all: bool = False,
        signals: frozenset[Signal] = BOTH,
    ) -> None:
        self.name = name
        self.takes_all = takes_all
        self.signals = signals
        self.route = route or Route()
        self.destination = destination
        self.counts = Counts()
        self.takes_otlp = destination.takes_otlp
        self.spool = spool
        self.queue = Queue(name, max_bytes=max_queue_bytes, spool=spool, lost=self._files_were_removed)
        if spool is not None:
            self.counts.captured_points, self.counts.captured_records = spool.points, spool.records
        self._sources = SourceCounts()
        for batch in left:
            self._sources.capture(batch)
        self._urgency = Urgency()
        self._condition = self._urgency.condition
        self.link = Link(name, destination, self._urgency)
        """How things stand with the backend."""
        self._worker = Worker(name, self.queue, self.link, self._urgency, self.counts, self._sources, rests)

    @property
    def is_away(self) -> bool:
        """Whether the backend takes nothing at present, as far as is known."""
        return self.link.is_away or self._worker.is_dead

    def put(self, batch: Batch) -> None:
        """Takes a batch, or drops it if there is no place left. Never waits for the backend.

        Raises:
            OSError: with a spool that gets every batch only: it does not take this one, of which nothing is
                kept then.
        """
        with self._condition:
            self._worker.revive()
            try:
                if self._urgency.closing:
                    raise OSError(errno.ESHUTDOWN, "the delivery is closed")
                self.queue.append(batch, away=self.is_away)
            except OSError as error:
                if self.queue.writes_first:
                    raise
                self.counts.capture(batch)
                self._say_dropped(batch, error.strerror or str(error))
                return
            self.counts.capture(batch)
            self._sources.capture(batch)
            self._condition.notify_all()

    def drop(self, batch: Batch, reason: str) -> None:
        """Counts a batch that :meth:`put` had no place for."""
        with self._condition:
            self.counts.capture(batch)
            self._sources.capture(batch)
            self._sources.settle(batch, None)
            self._say_dropped(batch, reason)

    def _say_dropped(self, batch: Batch, reason: str) -> None:
        self.link.last_error = reason
        log_once(
            f"queue {self.name}",
            logging.ERROR,
            "%s: %d points and %d records dropped: %s",
            self.name,
            batch.points,
            batch.records,
            reason,
        )

    def sync(self) -> None:
        """Returns once every batch that was put before is on the disk; without a spool at once.

        Raises:
            OSError: the disk failed.
        """
        if self.spool is not None:
            self.spool.sync()

    def counts_of(self, source: str) -> Counts:
        """What became of the batches of one source."""
        with self._condition:
            self.queue.look_after_files()
            return self._sources.of(source)

    def waits_for(self, source: str) -> bool:
        """Whether anything of one source is still to be delivered."""
        with self._condition:
            return self._sources.waits(source)

    def lines(self) -> list[BackendReport]:
        """For the closing lines: what became of everything."""
        left = self.spool is not None and bool(self.spool)
        return [
            BackendReport(
                **asdict(self.counts),
                name=self.name,
                left=left,
                spool=str(self.spool.folder) if left and self.spool is not None else "",
                error=self.last_error or self.destination.refusals(),
                locations=self.destination.locations(),
            )
        ]

    @property
    def backends(self) -> tuple[str, ...]:
        """The names of the backends that it serves."""
        return (self.name,)

    @property
    def is_reached(self) -> bool:
        """Whether what it is given survives this process soon, or never will."""
        return True

    def hand_on(self) -> None:
        """The run goes on in another session of this process: its end need not be waited for here."""

    @property
    def last_error(self) -> str:
        """What went wrong last; empty if nothing did."""
        return self.link.last_error

    def set_waited_for(self, wanted: bool) -> None:
        """A caller begins, or ceases, to wait for this delivery. Rests and back-offs are short meanwhile."""
        with self._condition:
            self._worker.revive()
        self._urgency.set_waited_for(wanted)

    def hurry(self) -> None:
        """Ends the rests: the process is about to end."""
        self._urgency.hurry()

    def flush(self, idle_timeout: float) -> bool:
        """Waits until everything queued is delivered or dropped.

        Args:
            idle_timeout: seconds to wait for the next sign of progress. While the backend takes data the
                wait goes on: giving up on a backend that works would lose points for nothing.

        Returns:
            Whether the queue is empty.
        """
        with self._condition:
            self.link.moved = time.monotonic()
        return self._wait(idle_timeout)

    def begin_closing(self) -> None:
        """Takes no more data and starts the clock of :meth:`finish_closing`."""
        with self._condition:
            self._urgency.closing = True
            self.link.moved = time.monotonic()
            self._condition.notify_all()

    def close(self, idle_timeout: float, deadline: float | None = None) -> bool:
        """Delivers what is queued, then ends the thread. What is left goes to the spool.

        Args:
            idle_timeout: as of :meth:`flush`.
            deadline: of ``time.monotonic()``: not beyond it, even if the backend takes data.

        Returns:
            Whether everything was sent.
        """
        self.begin_closing()
        return self.finish_closing(idle_timeout, deadline)

    def finish_closing(
        self, idle_timeout: float, deadline: float | None = None, *, last_call: float | None = None
    ) -> bool:
        """The waiting half of :meth:`close`.

        Args:
            idle_timeout: as of :meth:`flush`.
            deadline: as of :meth:`close`.
            last_call: seconds for the destination's own end, once it has everything; None is
                ``idle_timeout``.
        """
        done = False
        try:
            done = self._wait(idle_timeout, deadline)
        finally:  # also when a second Ctrl-C ends the waiting
            with self._condition:
                self._urgency.abandoned = True
                if not self.queue.close() and self.spool is not None:
                    self.link.last_error = self.queue.last_error
                if self.spool is not None:
                    self.counts.spooled_points = self.spool.points
                    self.counts.spooled_records = self.spool.records
                self._condition.notify_all()
        if done:
            self._worker.join(idle_timeout if last_call is None else last_call)
        elif not self.last_error:
            self.link.last_error = f"no answer within {idle_timeout:g} s"
        return done

    def _wait(self, idle_timeout: float, deadline: float | None = None) -> bool:
        with self._condition:
            self.set_waited_for(True)
            try:
                return self._wait_until_empty(idle_timeout, deadline)
            finally:
                self.set_waited_for(False)

    def _wait_until_empty(self, idle_timeout: float, deadline: float | None) -> bool:
        while self.queue or self.link.is_busy:
            patience = max(idle_timeout, LOADING_TIMEOUT_S) if self.link.is_loading else idle_timeout
            end = self.link.moved + patience
            if self.link.is_unusable:
                return False
            remaining = (end if deadline is None else min(end, deadline)) - time.monotonic()
            if remaining <= 0:
                return False
            self._condition.wait(min(remaining, 0.5))  # loading may end without a sign of progress
        return True

    def _files_were_removed(self) -> None:
        """Files of the spool were removed by others. What they held is lost, and does not wait any more."""
        self.link.last_error = self.queue.last_error
        self._sources.wait_only(self.queue.waiting())
