"""Which training processes an agent serves, and which of them are still there."""

from __future__ import annotations

import threading
import time
from typing import Final

import psutil

from tracelet_otel.agent.protocol import Source

_STARTS_AGREE_S: Final = 2.0
"""The start of a process is known to a clock tick and a second of the boot time."""
LEAST_PATIENCE_S: Final = 10.0
"""Whoever lets training wait less long for its trackers is in a hurry; the agent is not."""
FIRST_PATIENCE_S: Final = 60.0
"""How long an agent that nobody has used yet waits for the process that started it."""


class Sources:
    """The training processes; used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._there: dict[str, Source] = {}
        self._known: set[str] = set()
        self._since = time.monotonic()
        self.patience = LEAST_PATIENCE_S
        """Seconds without progress after which a backend is given up, once all of them are gone."""

    def add(self, name: str, source: Source) -> None:
        """A process says that it is there."""
        with self._lock:
            self._there[name] = source
            self._known.add(name)
            self.patience = max(self.patience, source.patience)

    def knows(self, name: str) -> bool:
        """Whether it is, or was, there."""
        return name in self._known

    def end(self, name: str) -> None:
        """It says that nothing more comes."""
        with self._lock:
            self._there.pop(name, None)

    def lost(self) -> dict[str, Source]:
        """Those that have ended without a word, each once."""
        with self._lock:
            gone = {name: source for name, source in self._there.items() if not is_alive(source)}
            for name in gone:
                del self._there[name]
        return gone

    def has_owner(self) -> bool:
        """Whether a process is there whose end is the end of runs."""
        with self._lock:
            return any(source.ends_runs for source in self._there.values())

    def is_needed(self) -> bool:
        """Whether there is any, or the first one may still come."""
        with self._lock:
            if self._there:
                return True
            return not self._known and time.monotonic() - self._since < FIRST_PATIENCE_S


def is_alive(source: Source) -> bool:
    """Whether the process still runs, and is no other with its number."""
    try:
        process = psutil.Process(source.pid)
        same = abs(process.create_time() - source.started) < _STARTS_AGREE_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # not ours to look at: better to wait than to end a run that goes on
        return True
