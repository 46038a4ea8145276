"""How many requests, and how many of their bytes, are in hand at once: what comes beyond waits outside."""

from __future__ import annotations

import threading
from types import TracebackType


class OverloadedError(Exception):
    """There is too much in hand already."""


class Budget:
    """Counts what is in hand; used by any number of threads.

    Args:
        requests: at most at once.
        size: bytes at most at once, decompressed. One request alone may be larger.
    """

    def __init__(self, requests: int, size: int) -> None:
        self.requests = 0
        self.bytes = 0
        self._most_requests = requests
        self._most_bytes = size
        self._lock = threading.Lock()

    def admit(self) -> Admission:
        """One request more, as a context.

        Raises:
            OverloadedError: there are too many.
        """
        with self._lock:
            if self.requests >= self._most_requests:
                raise OverloadedError(f"{self.requests} requests are in hand")
            self.requests += 1
        return Admission(self)

    def take(self, size: int, held: int) -> None:
        """Some more bytes of a request that holds ``held`` already.

        Raises:
            OverloadedError: there are too many.
        """
        with self._lock:
            others = self.bytes - held
            if others and self.bytes + size > self._most_bytes:
                raise OverloadedError(f"requests of {self.bytes} bytes are in hand")
            self.bytes += size

    def release(self, size: int) -> None:
        """A request and its bytes are done with."""
        with self._lock:
            self.requests -= 1
            self.bytes -= size


class Admission:
    """A request that was admitted, until its context is left."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def take(self, size: int) -> None:
        """Counts more of its bytes.

        Raises:
            OverloadedError: there are too many in hand.
        """
        self._budget.take(size, self._held)
        self._held += size

    def __enter__(self) -> Admission:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.release(self._held)
