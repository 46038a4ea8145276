"""Queue, retry and spool around one destination, in a thread of its own: no backend waits for another."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Sequence

from tracelet_otel.delivery.counts import Counts, SourceCounts
from tracelet_otel.delivery.destination import Batch, Destination
from tracelet_otel.delivery.link import LOADING_TIMEOUT_S, Link
from tracelet_otel.delivery.routing import Route
from tracelet_otel.delivery.spool.queue import Queue
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.delivery.summary import Line
from tracelet_otel.delivery.urgency import FIRST_BACKOFF_S, Urgency
from tracelet_otel.foundation.errors import TransientError
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.json import Signal

BOTH: frozenset[Signal] = frozenset({"metrics", "logs"})
BEHIND_POINTS = 20_000
"""Queued points from which on a delivery works without rest: about two seconds of work for a slow tracker,
which is what an exit may have to wait for."""


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
        self._rests = rests
        self._urgency = Urgency()
        self._condition = self._urgency.condition
        self.link = Link(name, destination, self._urgency)
        """How things stand with the backend."""
        self._has_ended = False
        """Whether its thread has nothing more to do."""
        self._thread = self._started()

    @property
    def is_away(self) -> bool:
        """Whether the backend takes nothing at present, as far as is known."""
        return self.link.is_away or not (self._thread.is_alive() or self._has_ended)

    def put(self, batch: Batch) -> None:
        """Takes a batch, or drops it if there is no place left. Never waits for the backend.

        Raises:
            OSError: with a spool that gets every batch only: it does not take this one, of which nothing is
                kept then.
        """
        with self._condition:
            self._restart_thread()
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
        """What became of the batches of one source. ``spooled`` is what waits now."""
        with self._condition:
            self.queue.look_after_files()
            return self._sources.of(source)

    def waits_for(self, source: str) -> bool:
        """Whether anything of one source is still to be delivered."""
        with self._condition:
            return self._sources.waits(source)

    def lines(self) -> list[Line]:
        """For the closing lines: what became of everything."""
        counts = self.counts
        left = self.spool is not None and bool(self.spool)
        return [
            Line(
                self.name,
                captured_points=counts.captured_points,
                captured_records=counts.captured_records,
                delivered_points=counts.delivered_points,
                delivered_records=counts.delivered_records,
                spooled_points=counts.spooled_points,
                spooled_records=counts.spooled_records,
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

    def hand_on(self) -> None:
        """The run goes on in another session of this process: its end need not be waited for here."""

    @property
    def last_error(self) -> str:
        """What went wrong last; empty if nothing did."""
        return self.link.last_error

    def hasten(self, wanted: bool) -> None:
        """Somebody begins, or ceases, to wait for this delivery: rests and back-offs are short meanwhile."""
        with self._condition:
            self._restart_thread()
        self._urgency.hasten(wanted)

    def hurry(self) -> None:
        """Rests no more: the process is about to end."""
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
                    self.counts.spooled_points, self.counts.spooled_records = (
                        self.spool.points,
                        self.spool.records,
                    )
                self._condition.notify_all()
        if done:
            self._thread.join(idle_timeout if last_call is None else last_call)
        elif not self.last_error:
            self.link.last_error = f"no answer within {idle_timeout:g} s"
        return done

    def _wait(self, idle_timeout: float, deadline: float | None = None) -> bool:
        with self._condition:
            self.hasten(True)
            try:
                return self._wait_until_empty(idle_timeout, deadline)
            finally:
                self.hasten(False)

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

    def _is_behind(self) -> bool:
        return self.queue.weight > BEHIND_POINTS or self.queue.is_spooling

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name=f"tracelet-{self.name}", daemon=True)
        thread.start()
        return thread

    def _restart_thread(self) -> None:
        if not self._thread.is_alive() and not self._has_ended:
            self._thread = self._started()

    def _work(self) -> None:
        while not self._has_ended:
            try:
                self._has_ended = not self._deliver_next()
            except BaseException as error:  # whatever it is: nothing would be delivered any more
                with self._condition:
                    self.link.fail(error)
                    self._condition.wait_for(lambda: self._urgency.abandoned, FIRST_BACKOFF_S)
        self.link.close()

    def _deliver_next(self) -> bool:
        """Waits for a batch and delivers it; whether there may be more."""
        link = self.link
        with self._condition:
            self._condition.wait_for(lambda: self.queue or self._urgency.abandoned)
            if self._urgency.abandoned:
                return False
            batch = self._take()
            link.begin()
        if not link.open() and self.spool is not None:
            return self._cannot_be_used()
        link.is_unusable = False
        started = time.thread_time()
        receipt = link.send(batch) if link.is_open and batch is not None else None
        with self._condition:
            if self._urgency.abandoned:  # it is in the spool; the closing line is out
                return False
            self.queue.done()
            link.done()
            if receipt is not None:
                self.counts.deliver(receipt)
            if batch is not None:
                self._sources.settle(batch, receipt)
            if not self.queue:
                self._sources.wait_only(())
            self._condition.notify_all()
            if self._rests:
                self._urgency.rest(time.thread_time() - started, self._is_behind)
        return True

    def _take(self) -> Batch | None:
        """The oldest batch; None: it is damaged."""
        try:
            return self.queue.take()
        except ValueError as error:
            self.link.note(error)
            return None
        except OSError as error:
            raise TransientError(f"its spool cannot be read: {error}") from error

    def _cannot_be_used(self) -> bool:
        """The backend cannot be used as it is set up; whether it is tried again.

        Where everything is in the spool anyway, the process stays, and somebody may mend it. Else everything
        goes there, and waits for a replay.
        """
        with self._condition:
            self.link.give_up()
            if not self.queue.writes_first:
                self.queue.spill()
            self._condition.notify_all()
            if self.queue.writes_first:
                self._urgency.stand_by()
        return self.queue.writes_first

    def _files_were_removed(self) -> None:
        """Somebody has removed files of the spool; what they held is lost, and does not wait any more."""
        self.link.last_error = self.queue.last_error
        self._sources.wait_only(self.queue.waiting())
