"""Counts what forked children cannot record, where the process that began the session finds the sums."""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final

from tracelet_otel.delivery.summary import amount
from tracelet_otel.foundation.forks import SharedLock
from tracelet_otel.recording.logged import LoggedEvent, LoggedPoint
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.recording.run import RunScope

_COUNTS: Final = struct.Struct("QQ")
_SLOTS: Final = 512
"""So many children that log at the same time have a slot of their own."""


class UnrecordedValues:
    """Points and records that were logged and not recorded, in memory that forked children share."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = SharedLock()
        self._slots = mmap.mmap(-1, _SLOTS * _COUNTS.size)

    def add(self, points: int, records: int) -> None:
        """Counts what this process could not record."""
        slot = os.getpid() % _SLOTS * _COUNTS.size  # not shared with another child: nothing locks it there
        with self._lock:
            before = _COUNTS.unpack_from(self._slots, slot)
            _COUNTS.pack_into(self._slots, slot, before[0] + points, before[1] + records)

    def line(self) -> str:
        """What the user should know at the end of the session, in the process that began it; or nothing."""
        if os.getpid() != self._process:
            return ""
        counts = list(_COUNTS.iter_unpack(self._slots[:]))
        missing = amount(sum(points for points, _ in counts), sum(records for _, records in counts))
        return f"not recorded, of child processes that could not begin to: {missing}" if missing else ""


class CountingRecorder(Recorder):
    """Records nothing and counts it.

    Args:
        values: where.
        scope: of the session that cannot record.
        media: of the same session.
    """

    def __init__(self, values: UnrecordedValues, scope: RunScope, media: MediaFolder) -> None:
        self.scope = scope
        self.media = media
        self._values = values

    def scalar(self, point: LoggedPoint) -> None:
        """Counts one point."""
        self._values.add(1, 0)

    def event(self, event: LoggedEvent) -> None:
        """Counts one event."""
        self._values.add(0, 1)
