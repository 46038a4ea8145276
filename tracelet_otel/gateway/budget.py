"""Bounds how many requests, and how many bytes of them, are in hand at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator


class OverloadedError(Exception):
    """There is too much in hand already."""


class Budget:
    """Counts what is in hand. Used by any number of threads.

    Args:
        requests: the most at once.
        size: the most bytes at once, decompressed. A single request may be larger.
    """

    def __init__(self, requests: int = 64, size: int = 512 * 1024 * 1024) -> None:
        self.requests = 0
        self._bytes = 0
        self._most_requests = requests
        self._most_bytes = size
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def admit(self) -> Generator[Callable[[int], None]]:
        """Admits one more request until the context ends. It gives what counts more bytes of the request.

        Raises:
            OverloadedError: there are too many requests; or too many bytes, where these are counted.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            with self._lock:
                if self._bytes > held and self._bytes + size > self._most_bytes:
                    raise OverloadedError(f"requests of {self._bytes} bytes are in hand")
                self._bytes += size
                held += size

        with self._lock:
            if self.requests >= self._most_requests:
                raise OverloadedError(f"{self.requests} requests are in hand")
            self.requests += 1
        try:
            yield take
        finally:
            with self._lock:
                self.requests -= 1
                self._bytes -= held
