"""Which training processes an agent serves, and which of them still run."""

from __future__ import annotations

import threading
import time
from typing import Final

import psutil

from tracelet_otel.agent.protocol import TrainingProcess

LEAST_PATIENCE_S: Final = 10.0
"""The agent waits at least this long for a tracker, however short training itself waits."""
FIRST_PATIENCE_S: Final = 60.0
"""How long an agent that no process has used yet waits for the process that started it."""
_STARTS_AGREE_S: Final = 2.0
"""The start of a process is known to a clock tick and a second of the boot time."""


class TrainingProcesses:
    """The training processes by their names. Used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: dict[str, tuple[TrainingProcess, psutil.Process | None]] = {}
        self._known: set[str] = set()
        self._since = time.monotonic()
        self.patience = LEAST_PATIENCE_S
        """The longest of all; see :attr:`TrainingProcess.patience`."""

    def add(self, name: str, given: TrainingProcess) -> None:
        """Registers a process, also again."""
        try:
            process = psutil.Process(given.pid)
            if abs(process.create_time() - given.started) >= _STARTS_AGREE_S:
                process = None
        except psutil.Error:
            process = None
        with self._lock:
            self._present[name] = given, process
            self._known.add(name)
            self.patience = max(self.patience, given.patience)

    def knows(self, name: str) -> bool:
        """Whether the process was ever registered."""
        return name in self._known

    def end(self, name: str) -> None:
        """Removes a process that sends nothing more."""
        with self._lock:
            self._present.pop(name, None)

    def lost(self) -> list[TrainingProcess]:
        """Removes the processes that ended without a message, and returns them."""
        with self._lock:
            gone = [name for name, (_, process) in self._present.items() if not _is_running(process)]
            return [self._present.pop(name)[0] for name in gone]

    def has_owner(self) -> bool:
        """Whether a process is present whose end is the end of runs."""
        with self._lock:
            return any(given.ends_runs for given, _ in self._present.values())

    def is_needed(self) -> bool:
        """Whether a process is present, or the first one may still come."""
        with self._lock:
            may_come = not self._known and time.monotonic() - self._since < FIRST_PATIENCE_S
            return bool(self._present) or may_come


def _is_running(process: psutil.Process | None) -> bool:
    """Whether it still runs. Not by its start in seconds, which changes with the machine's clock."""
    try:
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it cannot be looked at: better to wait than to end a run that goes on
        return True
