"""Which training processes an agent serves, and which of them are still there."""

from __future__ import annotations

import threading
import time
from typing import Final

import psutil

from tracelet_otel.agent.protocol import TrainingProcess

_STARTS_AGREE_S: Final = 2.0
"""The start of a process is known to a clock tick and a second of the boot time."""
LEAST_PATIENCE_S: Final = 10.0
"""Whoever lets training wait less long for its trackers is in a hurry; the agent is not."""
FIRST_PATIENCE_S: Final = 60.0
"""How long an agent that nobody has used yet waits for the process that started it."""


class TrainingProcesses:
    """The training processes; used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._there: dict[str, tuple[TrainingProcess, psutil.Process | None]] = {}
        self._known: set[str] = set()
        self._since = time.monotonic()
        self.patience = LEAST_PATIENCE_S
        """Seconds without progress after which a backend is given up, once all of them are gone."""

    def add(self, name: str, source: TrainingProcess) -> None:
        """A process says that it is there."""
        process = _process(source)
        with self._lock:
            self._there[name] = source, process
            self._known.add(name)
            self.patience = max(self.patience, source.patience)

    def knows(self, name: str) -> bool:
        """Whether it is, or was, there."""
        return name in self._known

    def end(self, name: str) -> None:
        """It says that nothing more comes."""
        with self._lock:
            self._there.pop(name, None)

    def lost(self) -> dict[str, TrainingProcess]:
        """Those that have ended without a word, each once."""
        with self._lock:
            gone = {name: source for name, (source, process) in self._there.items() if not _is_alive(process)}
            for name in gone:
                del self._there[name]
        return gone

    def has_owner(self) -> bool:
        """Whether a process is there whose end is the end of runs."""
        with self._lock:
            return any(source.ends_runs for source, _ in self._there.values())

    def is_needed(self) -> bool:
        """Whether there is any, or the first one may still come."""
        with self._lock:
            if self._there:
                return True
            return not self._known and time.monotonic() - self._since < FIRST_PATIENCE_S


def _process(source: TrainingProcess) -> psutil.Process | None:
    """The process, by its number and start; None if it has ended."""
    try:
        process = psutil.Process(source.pid)
        return process if abs(process.create_time() - source.started) < _STARTS_AGREE_S else None
    except psutil.Error:
        return None


def _is_alive(process: psutil.Process | None) -> bool:
    """Whether it still runs. Not by its start in seconds, which changes with the machine's clock."""
    try:
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # not ours to look at: better to wait than to end a run that goes on
        return True
