"""The way to one destination: repeats a call until it works or cannot, and knows how things stand."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from tracelet_otel.delivery.destination import Batch, Destination, Receipt
from tracelet_otel.delivery.urgency import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, Urgency
from tracelet_otel.foundation.errors import DeliveryError, TransientError
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.foundation.logs import get_logger

LOADING_TIMEOUT_S = 120.0
"""How long an exit waits for a client library to be imported: seconds at most on a cold or network disk."""
STALLED_S = 5.0
"""Time after which a backend that does not answer counts as away: what comes then goes to the spool."""


class Link:
    """Calls a destination, from the delivery's thread; others look at how it is.

    Args:
        name: the backend's, for messages.
        destination: where to.
        urgency: of the delivery.
    """

    def __init__(self, name: str, destination: Destination, urgency: Urgency) -> None:
        self.last_error = ""
        self.is_open = False
        self.is_busy = False
        """Whether a batch is in hand."""
        self.is_loading = False
        self.is_unusable = False
        """Whether the backend cannot be used as it is set up."""
        self.moved = time.monotonic()
        """When there was the last sign of progress, or a caller began to wait for one."""
        self._name = name
        self._destination = destination
        self._urgency = urgency
        self._is_failing = False
        self._since = 0.0

    @property
    def is_away(self) -> bool:
        """Whether the backend takes nothing at present, as far as is known."""
        stalled = self.is_busy and not self.is_loading and time.monotonic() - self._since > STALLED_S
        return self._is_failing or self.is_unusable or stalled

    @property
    def busy_for(self) -> float:
        """For how many seconds a call to the backend has been under way; 0 between two attempts."""
        return time.monotonic() - self._since if self.is_busy and not self._is_failing else 0.0

    @property
    def progress(self) -> float:
        """When there was a sign of progress, of ``time.monotonic()``: now, while a client is imported."""
        if self.is_loading and time.monotonic() - self._since < LOADING_TIMEOUT_S:
            return time.monotonic()
        return self.moved

    def begin(self) -> None:
        """A batch is in hand."""
        self.is_busy = True
        self._since = time.monotonic()

    def done(self) -> None:
        """The batch is not in hand any more, which is progress."""
        self.is_busy = False
        self.moved = time.monotonic()

    def give_up(self) -> None:
        """The batch in hand waits: the backend cannot be used as it is set up."""
        self.is_unusable = True
        self.is_busy = False

    def open(self) -> bool:
        """Loads the client and reaches the backend, if that was not done before; whether it can be used."""
        if not self.is_open:
            is_loaded = self._attempt(self._load) is not None
            self._since = time.monotonic()
            self.is_open = is_loaded and self._attempt(self._destination.connect) is not None
        return self.is_open

    def send(self, batch: Batch) -> Receipt | None:
        """Sends a batch; None if it never will be taken, or is not waited for any more."""
        self._since = time.monotonic()
        receipt = self._attempt(lambda: self._destination.send(batch))
        return receipt if isinstance(receipt, Receipt) else None

    def close(self) -> None:
        """Ends the client, if there is one."""
        if self.is_open:
            self._attempt(self._destination.close)

    def fail(self, error: BaseException) -> None:
        """No batch is in hand: something went wrong before or after it was sent."""
        self._is_failing = True
        self.is_busy = False
        self.note(error)

    def note(self, error: BaseException) -> None:
        """Logs what went wrong."""
        # These messages are written for people; anything else is a defect and shows its type.
        self.last_error = str(error) if isinstance(error, (DeliveryError, OSError)) else repr(error)
        retried = "; it is tried again" if isinstance(error, TransientError) else "; it is not tried again"
        log_once(f"delivery {self._name}", logging.WARNING, "%s: %s%s", self._name, self.last_error, retried)
        get_logger().debug("%s failed", self._name, exc_info=error)

    def _load(self) -> None:
        self.is_loading = True
        try:
            self._destination.load()
        finally:
            self.is_loading = False

    def _attempt(self, action: Callable[[], object]) -> object | None:
        """Calls ``action`` until it works or cannot; its result (True for None), or None if it cannot."""
        backoff = FIRST_BACKOFF_S
        while True:
            try:
                result = action()
            except TransientError as error:
                self.note(error)
                self._is_failing = True
                delay = min(backoff, LONGEST_BACKOFF_S) * random.uniform(0.5, 1.0)
                backoff *= 2
                if not self._urgency.back_off(max(delay, error.retry_after or 0.0)):
                    return None
            except BaseException as error:  # permanent, or a defect of the client, which may call sys.exit()
                self.note(error)
                self._is_failing = False
                return None
            else:
                with self._urgency.condition:
                    self._is_failing = False
                    self.moved = time.monotonic()
                return True if result is None else result
