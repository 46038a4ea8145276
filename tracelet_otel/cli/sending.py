"""Sends a stream of batches to one backend, in a thread of its own: no backend waits for another."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from tracelet_otel.cli.targets import AnyTarget
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.urgency import FIRST_BACKOFF_S, LONGEST_BACKOFF_S
from tracelet_otel.foundation.errors import DeliveryError, TransientError
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.settings import ConfigurationError

T = TypeVar("T")


class Part(NamedTuple):
    """A step forward in a stream."""

    done: int
    """Bytes of the stream up to its end."""
    batch: Batch | None = None
    finished: str = ""
    """The source that ends here."""
    describes: bool = False
    """Whether the batch only describes runs; it comes again."""


class _GivenUpError(Exception):
    """The backend takes no data, or the user stops."""


class Sender(threading.Thread):
    """Sends everything, in order, and counts.

    Args:
        name: the backend's.
        target: where to.
        parts: the stream; may raise OSError and ConfigurationError.
        total: bytes of the stream, about.
        timeout: seconds without progress after which it gives up.
        stop: set when the user stops.
    """

    def __init__(
        self,
        name: str,
        target: AnyTarget,
        parts: Iterable[Part],
        *,
        total: int,
        timeout: float,
        stop: threading.Event,
    ) -> None:
        super().__init__(name=f"tracelet-{name}", daemon=True)
        self.backend = name
        self.target = target
        self.total = total
        self.done = 0
        self.points = 0
        self.records = 0
        self.refused_points = 0
        self.refused_records = 0
        self.sources: dict[str, bool] = {}
        """Sources that were sent to their end, and whether all of each was taken."""
        self.error = ""
        """Why it ended early; empty otherwise."""
        self.trouble = ""
        """Why it waits at present."""
        self.ended = threading.Event()
        """Set at the end: an interrupted ``join()`` returns while the thread still runs."""
        self._reason = ""
        self._parts = parts
        self._timeout = timeout
        self._stop_event = stop

    @property
    def reason(self) -> str:
        """Why something was refused."""
        found = self.target.reasons() or [self._reason]
        return found[0] + (f" (and {len(found) - 1} other reasons)" if len(found) > 1 else "")

    @property
    def refused(self) -> bool:
        """Whether something was refused."""
        return bool(self.refused_points or self.refused_records or self._reason)

    def run(self) -> None:
        """Sends everything. Never raises."""
        try:
            self._retried(self.target.load)
            self._retried(self.target.connect)
            self._send_all()
            self._retried(self.target.finish)
        except (_GivenUpError, ConfigurationError, DeliveryError, OSError) as error:
            self.error = str(error)
        except Exception as error:  # a defect of a tracker: the other backends go on
            self.error = repr(error)
            get_logger().debug("%s failed", self.backend, exc_info=error)
        finally:
            try:
                self.target.close()
            except Exception as error:
                self.error = self.error or f"at the end: {error}"
            self.ended.set()

    def _send_all(self) -> None:
        refused = 0
        for part in self._parts:
            if self._stop_event.is_set():
                raise _GivenUpError("interrupted")
            if part.batch is not None and part.describes:
                self.target.describe(part.batch)
            elif part.batch is not None:
                refused += self._send(part.batch)
            self.done = part.done
            if part.finished:
                self.sources[part.finished] = not refused
                refused = 0

    def _send(self, batch: Batch) -> int:
        """Sends one batch; how many of its points and records were refused, at least 1 if any."""
        try:
            receipt = self._retried(lambda: self.target.send(batch))
        except (_GivenUpError, OSError):
            raise
        except Exception as error:  # this batch will never be taken
            self._reason = str(error) if isinstance(error, DeliveryError) else repr(error)
            self.refused_points += batch.points
            self.refused_records += batch.records
            return batch.points + batch.records or 1
        points, records = batch.points - receipt.points, batch.records - receipt.records
        self.points += receipt.points
        self.records += receipt.records
        self.refused_points += points
        self.refused_records += records
        return points + records

    def _retried(self, action: Callable[[], T]) -> T:
        backoff, began = FIRST_BACKOFF_S, time.monotonic()
        while True:
            try:
                result = action()
            except TransientError as error:
                self.trouble = str(error)
                left = self._timeout - (time.monotonic() - began)
                if left <= 0:
                    raise _GivenUpError(f"no progress for {self._timeout:g} s: {error}") from error
                delay = max(
                    min(backoff, LONGEST_BACKOFF_S) * random.uniform(0.5, 1.0), error.retry_after or 0.0
                )
                backoff *= 2
                if self._stop_event.wait(min(delay, left)):
                    raise _GivenUpError("interrupted") from error
            else:
                self.trouble = ""
                return result
