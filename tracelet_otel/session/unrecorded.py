"""How many forked children could not start to record, where the process that began the session sees it."""

from __future__ import annotations

import mmap
import os
from typing import Final

_SLOTS: Final = 4096
"""A byte for each process id, modulo their number: children that fail at once do not write the same one."""


class UnrecordedChildren:
    """Counts them in memory that forked children share."""

    def __init__(self) -> None:
        self._process = os.getpid()
        try:
            self._counts: mmap.mmap | bytearray = mmap.mmap(-1, _SLOTS)
        except OSError:  # then the children say it alone
            self._counts = bytearray(_SLOTS)

    def add(self) -> None:
        """Counts this process."""
        slot = os.getpid() % _SLOTS
        self._counts[slot] = min(255, self._counts[slot] + 1)

    def line(self) -> str:
        """What the user should know at the end of the session, in the process that began it; or nothing."""
        count = sum(self._counts[:])
        if not count or os.getpid() != self._process:
            return ""
        processes = "1 child process" if count == 1 else f"{count} child processes"
        return f"{processes} could not start to record: what they logged is nowhere"
