"""Queue and retry around one destination, in a thread of its own, so that no backend waits for another."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from dataclasses import dataclass

from tracelet_otel.delivery.destination import Batch, Destination, Receipt
from tracelet_otel.delivery.errors import DeliveryError, TransientError
from tracelet_otel.guard import log_once

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
RECORD_WEIGHT = 100
"""Points that cost as much as one record, about."""
LONGEST_REST_S = 10.0


@dataclass(slots=True)
class Counts:
    """Points and records of one delivery."""

    captured_points: int = 0
    captured_records: int = 0
    delivered_points: int = 0
    delivered_records: int = 0

    @property
    def dropped_points(self) -> int:
        """Points that were captured and not delivered."""
        return self.captured_points - self.delivered_points

    @property
    def dropped_records(self) -> int:
        """Records that were captured and not delivered."""
        return self.captured_records - self.delivered_records


class Delivery:
    """Takes batches without ever blocking, and sends them in order from its own thread.

    Args:
        name: the backend's name, for messages.
        destination: where to.
        max_queue_bytes: what is queued beyond this is dropped and counted, newest first.
    """

    def __init__(self, name: str, destination: Destination, *, max_queue_bytes: int) -> None:
        self.name = name
        self.destination = destination
        self.counts = Counts()
        self.last_error = ""
        self.takes_otlp = destination.takes_otlp
        self._max_queue_bytes = max_queue_bytes
        self._queue: deque[Batch] = deque()
        self._queued_bytes = 0
        self._queued_weight = 0
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
        """Queues a batch, or drops it if the queue is full. Never waits for the backend."""
        with self._condition:
            self.counts.captured_points += batch.points
            self.counts.captured_records += batch.records
            if self._closing or self._queued_bytes + batch.size > self._max_queue_bytes:
                self.last_error = "the delivery is closed" if self._closing else "its queue is full"
                log_once(
                    f"queue {self.name}",
                    logging.WARNING,
                    "%s: %d points and %d records dropped: %s (%d bytes; setting TRACELET_MAX_QUEUE_BYTES)",
                    self.name,
                    batch.points,
                    batch.records,
                    self.last_error,
                    self._max_queue_bytes,
                )
                return
            self._queue.append(batch)
            self._queued_bytes += batch.size
            self._queued_weight += batch.points + RECORD_WEIGHT * batch.records
            self._condition.notify_all()

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

    def close(self, idle_timeout: float) -> bool:
        """Delivers what is queued, then ends the thread. What is left counts as dropped.

        Args:
            idle_timeout: as of :meth:`flush`.

        Returns:
            Whether everything was sent.
        """
        self.begin_closing()
        return self.finish_closing(idle_timeout)

    def finish_closing(self, idle_timeout: float) -> bool:
        """The waiting half of :meth:`close`."""
        done = self._wait(idle_timeout)
        with self._condition:
            self._abandoned = True
            self._condition.notify_all()
        if done:
            self._thread.join(idle_timeout)
        elif not self.last_error:
            self.last_error = f"no answer within {idle_timeout:g} s"
        return done

    def _wait(self, idle_timeout: float) -> bool:
        with self._condition:
            self._waiters += 1
            self._condition.notify_all()  # end a rest or a back-off now: somebody waits
            try:
                return self._wait_until_empty(idle_timeout)
            finally:
                self._waiters -= 1

    def _wait_until_empty(self, idle_timeout: float) -> bool:
        while self._queue or self._busy:
            patience = max(idle_timeout, LOADING_TIMEOUT_S) if self._loading else idle_timeout
            remaining = self._progress + patience - time.monotonic()
            if remaining <= 0:
                return False
            self._condition.wait(min(remaining, 0.5))  # loading may end without a sign of progress
        return True

    def _rest(self, worked: float) -> None:
        """Leaves the interpreter to training, unless somebody waits for this delivery or it is behind."""
        self._condition.wait_for(
            lambda: self._waiters or self._closing or self._hurried or self._queued_weight > BEHIND_POINTS,
            min(worked * (1 / SHARE - 1), LONGEST_REST_S),
        )

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
                self._condition.wait_for(lambda: self._queue or self._abandoned)
                if self._abandoned:
                    break
                batch = self._queue[0]
                self._busy = True
            if not connected:
                connected = self._attempt(self._load) is not None
                connected = connected and self._attempt(self.destination.connect) is not None
            started = time.thread_time()
            receipt = self._attempt(lambda b=batch: self.destination.send(b)) if connected else None
            with self._condition:
                if self._abandoned:  # counted as dropped already; the closing line is out
                    break
                self._queue.popleft()
                self._queued_bytes -= batch.size
                self._queued_weight -= batch.points + RECORD_WEIGHT * batch.records
                self._busy = False
                self._progress = time.monotonic()
                if isinstance(receipt, Receipt):
                    self.counts.delivered_points += receipt.points
                    self.counts.delivered_records += receipt.records
                self._condition.notify_all()
                self._rest(time.thread_time() - started)
        if connected:
            self._attempt(self.destination.close)

    def _attempt(self, action: object) -> object | None:
        """Calls ``action`` until it works or cannot; its result (True for None), or None if it cannot."""
        assert callable(action)
        backoff = FIRST_BACKOFF_S
        while True:
            try:
                result = action()
            except TransientError as error:
                self._note(error)
                delay = min(backoff, LONGEST_BACKOFF_S) * random.uniform(0.5, 1.0)
                delay = max(delay, error.retry_after or 0.0)
                backoff *= 2
                with self._condition:
                    if self._abandoned:
                        return None
                    if self._closing:
                        delay = min(delay, LONGEST_BACKOFF_AT_EXIT_S)
                    self._condition.wait(delay)
                    if self._abandoned:
                        return None
            except Exception as error:  # permanent, or a defect of the exporter: neither may stop the rest
                self._note(error)
                return None
            else:
                with self._condition:
                    self._progress = time.monotonic()
                return True if result is None else result

    def _note(self, error: Exception) -> None:
        # These messages are written for people; anything else is a defect and shows its type.
        self.last_error = str(error) if isinstance(error, (DeliveryError, OSError)) else repr(error)
        retried = "; it is tried again" if isinstance(error, TransientError) else "; this data is dropped"
        log_once(f"delivery {self.name}", logging.WARNING, "%s: %s%s", self.name, self.last_error, retried)
        logging.getLogger("tracelet_otel").debug("%s failed", self.name, exc_info=error)
