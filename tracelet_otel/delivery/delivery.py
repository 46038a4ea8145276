"""Queue, retry and spool around one destination, in a thread of its own: no backend waits for another."""

from __future__ import annotations

import errno
import logging
import random
import threading
import time
from collections.abc import Sequence

from tracelet_otel.delivery.backlog import Backlog, DurableBacklog
from tracelet_otel.delivery.counts import Counts, SourceCounts
from tracelet_otel.delivery.destination import Batch, Destination, Receipt
from tracelet_otel.delivery.durable import DurableSpool
from tracelet_otel.delivery.errors import DeliveryError, TransientError
from tracelet_otel.delivery.otlp_json import Signal
from tracelet_otel.delivery.spool import Spool
from tracelet_otel.guard import log_once
from tracelet_otel.routing import Route
from tracelet_otel.summary import Line

BOTH: frozenset[Signal] = frozenset({"metrics", "logs"})
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
LONGEST_BACKOFF_AT_EXIT_S = 1.0
LOADING_TIMEOUT_S = 120.0
"""How long an exit waits for a client library to be imported: seconds at most on a cold or network disk."""
SHARE = 0.01
"""CPU time that a delivery takes from training while it is not behind. Python's threads share one lock:
what a tracker's client computes, training waits for."""
BEHIND_POINTS = 20_000
"""Queued points from which on a delivery works without rest: about two seconds of work for a slow tracker,
which is what an exit may have to wait for."""
STALLED_S = 5.0
"""Time after which a backend that does not answer counts as away: what comes then goes to the spool."""
LONGEST_REST_S = 10.0


class Delivery:
    """Takes batches without ever blocking, and sends them in order from its own thread.

    Args:
        name: the backend's name, for messages.
        destination: where to.
        max_queue_bytes: what is queued beyond this goes to the spool.
        spool: where batches go that the backend does not take. None, or one that is full or cannot be
            written: they are dropped and counted, newest first. A durable one gets every batch, before
            :meth:`put` returns, and what an earlier process left in it is sent first.
        route: what the backend gets; None is everything.
        rests: whether it leaves most of the interpreter's time to others while it is not behind.
        left: what an earlier process left in the durable spool, for the counts of its sources.
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
        spool: Spool | DurableSpool | None = None,
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
        self.last_error = ""
        self.takes_otlp = destination.takes_otlp
        self.spool = spool
        self.durable = spool if isinstance(spool, DurableSpool) else None
        self._sources = SourceCounts()
        for batch in left:
            self._sources.capture(batch)
        if isinstance(spool, DurableSpool):
            self._backlog = DurableBacklog(name, spool)
            self.counts.captured_points, self.counts.captured_records = spool.points, spool.records
        else:
            self._backlog = Backlog(name, max_bytes=max_queue_bytes, spool=spool)
        self._rests = rests
        self._failing = False
        self._unusable = False
        self._since = 0.0
        self._waiters = 0
        self._hurried = False
        self._condition = threading.Condition()
        self._busy = False
        self._loading = False
        self._closing = False
        self._abandoned = False
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"tracelet-{name}", daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """Takes a batch, or drops it if there is no place left. Never waits for the backend.

        Raises:
            SpoolFullError, OSError: with a durable spool only: it does not take the batch, of which nothing
                is kept then.
        """
        with self._condition:
            if self.durable is not None:
                if self._closing:
                    raise OSError(errno.ESHUTDOWN, "the delivery is closed", self.name)
                self.durable.append(batch)
                self.counts.capture(batch)
                self._sources.capture(batch)
                self._condition.notify_all()
                return
            self.counts.capture(batch)
            if not self._closing and self._backlog.add(batch, away=self._is_away()):
                self._condition.notify_all()
                return
            self._say_dropped(batch, "the delivery is closed" if self._closing else self._backlog.last_error)

    def drop(self, batch: Batch, reason: str) -> None:
        """Counts a batch that a durable spool had no place for."""
        with self._condition:
            self.counts.capture(batch)
            self._sources.capture(batch)
            self._sources.settle(batch, None)
            self._say_dropped(batch, reason)

    def _say_dropped(self, batch: Batch, reason: str) -> None:
        self.last_error = reason
        log_once(
            f"queue {self.name}",
            logging.ERROR,
            "%s: %d points and %d records dropped: %s",
            self.name,
            batch.points,
            batch.records,
            reason,
        )

    def _is_away(self) -> bool:
        stalled = self._busy and not self._loading and time.monotonic() - self._since > STALLED_S
        return self._failing or self._unusable or stalled

    def sync(self) -> None:
        """Returns once every batch that was put before is on the disk; without a durable spool at once.

        Raises:
            OSError: the disk failed.
        """
        if self.durable is not None:
            self.durable.sync()

    def counts_of(self, source: str) -> Counts:
        """What became of the batches of one source, with a durable spool. ``spooled`` is what waits now."""
        with self._condition:
            return self._sources.of(source)

    def unwritten_of(self, source: str) -> tuple[int, int]:
        """Points and records of one source that wait in memory alone, as no disk takes them."""
        return self.durable.unwritten(source) if self.durable is not None else (0, 0)

    def waits_for(self, source: str) -> bool:
        """Whether anything of one source is still to be delivered, with a durable spool."""
        with self._condition:
            return self._sources.waits(source)

    def forget(self, source: str) -> None:
        """Frees the counts of a source that has ended."""
        with self._condition:
            self._sources.forget(source)

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
    def works(self) -> bool:
        """Whether the backend takes data, as far as is known."""
        return not self._is_away()

    @property
    def unusable(self) -> bool:
        """Whether the backend cannot be used as it is set up."""
        return self._unusable

    @property
    def busy_for(self) -> float:
        """For how many seconds a call to the backend has been under way; 0 between two attempts."""
        return time.monotonic() - self._since if self._busy and not self._failing else 0.0

    def hasten(self, wanted: bool) -> None:
        """Somebody begins, or ceases, to wait for this delivery: rests and back-offs are short meanwhile."""
        with self._condition:
            self._waiters += 1 if wanted else -1
            self._condition.notify_all()

    @property
    def progress(self) -> float:
        """When there was a sign of progress, of ``time.monotonic()``: now, while a client is imported."""
        if self._loading and time.monotonic() - self._since < LOADING_TIMEOUT_S:
            return time.monotonic()
        return self._progress

    def hurry(self) -> None:
        """Rests no more: the process is about to end."""
        with self._condition:
            self._hurried = True
            self._condition.notify_all()

    def flush(self, idle_timeout: float) -> bool:
        """Waits until everything queued is delivered or dropped.

        Args:
            idle_timeout: seconds to wait for the next sign of progress. While the backend takes data the
                wait goes on: giving up on a backend that works would lose points for nothing.

        Returns:
            Whether the queue is empty.
        """
        with self._condition:
            self._progress = time.monotonic()
        return self._wait(idle_timeout)

    def begin_closing(self) -> None:
        """Takes no more data and starts the clock of :meth:`finish_closing`."""
        with self._condition:
            self._closing = True
            self._progress = time.monotonic()
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
                self._abandoned = True
                if not done:
                    self._backlog.spill_all()
                self.counts.spooled_points, self.counts.spooled_records = self._backlog.close()
                self._condition.notify_all()
        if done:
            self._thread.join(idle_timeout if last_call is None else last_call)
        elif not self.last_error:
            self.last_error = f"no answer within {idle_timeout:g} s"
        return done

    def _wait(self, idle_timeout: float, deadline: float | None = None) -> bool:
        with self._condition:
            self._waiters += 1
            self._condition.notify_all()  # end a rest or a back-off now: somebody waits
            try:
                return self._wait_until_empty(idle_timeout, deadline)
            finally:
                self._waiters -= 1

    def _wait_until_empty(self, idle_timeout: float, deadline: float | None) -> bool:
        while self._backlog or self._busy:
            patience = max(idle_timeout, LOADING_TIMEOUT_S) if self._loading else idle_timeout
            end = self._progress + patience
            if self._unusable:
                return False
            remaining = (end if deadline is None else min(end, deadline)) - time.monotonic()
            if remaining <= 0:
                return False
            self._condition.wait(min(remaining, 0.5))  # loading may end without a sign of progress
        return True

    def _rest(self, worked: float) -> None:
        """Leaves the interpreter to training, unless somebody waits for this delivery or it is behind."""
        if not self._rests:
            return
        self._condition.wait_for(
            lambda: self._waiters or self._closing or self._hurried or self._is_behind(),
            min(worked * (1 / SHARE - 1), LONGEST_REST_S),
        )

    def _is_behind(self) -> bool:
        return self._backlog.weight > BEHIND_POINTS or self._backlog.is_spooling

    def _load(self) -> None:
        self._loading = True
        try:
            self.destination.load()
        finally:
            self._loading = False

    def _work(self) -> None:
        connected = False
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._backlog or self._abandoned)
                if self._abandoned:
                    break
                try:
                    batch = self._backlog.take()
                except (OSError, ValueError) as error:
                    self._note(error)
                    batch = None
                    if self.durable is not None and isinstance(error, OSError):  # it is still there
                        self._condition.wait(FIRST_BACKOFF_S)
                        continue
                self._busy = True
                self._since = time.monotonic()
            if not connected:
                connected = self._attempt(self._load) is not None
                self._since = time.monotonic()
                connected = connected and self._attempt(self.destination.connect) is not None
            if not connected and self.durable is not None:
                self._try_later()
                continue
            if not connected and self.spool is not None:
                self._give_up()
                return
            self._unusable = False
            started = time.thread_time()
            self._since = time.monotonic()
            receipt = None
            if connected and batch is not None:
                receipt = self._attempt(lambda b=batch: self.destination.send(b))
            with self._condition:
                if self._abandoned:  # it is in the spool; the closing line is out
                    break
                self._backlog.done()
                self._busy = False
                self._progress = time.monotonic()
                taken = receipt if isinstance(receipt, Receipt) else None
                if taken is not None:
                    self.counts.deliver(taken)
                if batch is not None:
                    self._sources.settle(batch, taken)
                self._condition.notify_all()
                self._rest(time.thread_time() - started)
        if connected:
            self._attempt(self.destination.close)

    def _give_up(self) -> None:
        """The backend cannot be used as it is set up: everything waits in the spool for a replay."""
        with self._condition:
            self._unusable = True
            self._busy = False
            if not self._abandoned:
                self._backlog.spill_all()
            self._condition.notify_all()

    def _try_later(self) -> None:
        """The backend cannot be used as it is set up: a process that stays waits until somebody mends it."""
        with self._condition:
            self._unusable = True
            self._busy = False
            self._condition.notify_all()
            patience = LONGEST_BACKOFF_AT_EXIT_S if self._closing else LONGEST_BACKOFF_S
            self._condition.wait_for(lambda: self._abandoned, patience)

    def _attempt(self, action: object) -> object | None:
        """Calls ``action`` until it works or cannot; its result (True for None), or None if it cannot."""
        assert callable(action)
        backoff = FIRST_BACKOFF_S
        while True:
            try:
                result = action()
            except TransientError as error:
                self._note(error)
                self._failing = True
                delay = min(backoff, LONGEST_BACKOFF_S) * random.uniform(0.5, 1.0)
                delay = max(delay, error.retry_after or 0.0)
                backoff *= 2
                with self._condition:
                    if self._abandoned:
                        return None
                    ending = self._closing or self._hurried
                    if ending or self._waiters:
                        delay = min(delay, LONGEST_BACKOFF_AT_EXIT_S)
                    # Not until the next notification: there is one for every batch that comes.
                    self._condition.wait_for(
                        lambda e=ending, w=self._waiters: (
                            self._abandoned or self._waiters > w or (self._closing or self._hurried) is not e
                        ),
                        delay,
                    )
                    if self._abandoned:
                        return None
            except Exception as error:  # permanent, or a defect of the exporter: neither may stop the rest
                self._note(error)
                self._failing = False
                return None
            else:
                with self._condition:
                    self._failing = False
                    self._progress = time.monotonic()
                return True if result is None else result

    def _note(self, error: Exception) -> None:
        # These messages are written for people; anything else is a defect and shows its type.
        self.last_error = str(error) if isinstance(error, (DeliveryError, OSError)) else repr(error)
        retried = "; it is tried again" if isinstance(error, TransientError) else "; it is not tried again"
        log_once(f"delivery {self.name}", logging.WARNING, "%s: %s%s", self.name, self.last_error, retried)
        logging.getLogger("tracelet_otel").debug("%s failed", self.name, exc_info=error)
