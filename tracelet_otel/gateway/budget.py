"""Bounds how many requests, and how many bytes of them, are in hand at once."""

from __future__ import annotations

import threading
from types import TracebackType


class OverloadedError(Exception):
    """There is too much in hand already."""


class Budget:
    """Counts what is in hand. Used by any number of threads.

    Args:
        requests: the most at once.
        size: the most bytes at once, decompressed. A single request may be larger.
    """

    def __init__(self, requests: int, size: int) -> None:
        self.requests = 0
        self.bytes = 0
        self._most_requests = requests
        self._most_bytes = size
        self._lock = threading.Lock()

    def admit(self) -> Admission:
        """Admits one more request, as a context.

        Raises:
            OverloadedError: there are too many.
        """
        with self._lock:
            if self.requests >= self._most_requests:
                raise OverloadedError(f"{self.requests} requests are in hand")
            self.requests += 1
        return Admission(self)

    def take(self, size: int, held: int) -> None:
        """Counts more bytes of a request that already holds ``held``.

        Raises:
            OverloadedError: there are too many.
        """
        with self._lock:
            others = self.bytes - held
            if others and self.bytes + size > self._most_bytes:
                raise OverloadedError(f"requests of {self.bytes} bytes are in hand")
            self.bytes += size

    def release(self, size: int) -> None:
        """Frees a request and its bytes."""
        with self._lock:
            self.requests -= 1
            self.bytes -= size


class Admission:
    """An admitted request, until its context ends."""

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
