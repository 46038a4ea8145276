"""Which points and records of a run W&B's client has taken.

The client takes data once: what is given to it again is there twice. So each series has its intervals of
:data:`~tracelet_otel.semconv.SEQUENCE` numbers that were logged, and each record that is a row of the
history its fingerprint. They are kept in the run's summary, below keys that W&B does not show, and so in
the run's log as well as on the server; the next process that opens the run goes on from there.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from tracelet_otel.otlp.intervals import Intervals

POINTS: Final = "_tracelet_points"
"""The entry of the summary with a member a series, ``"first-end,first-end"``."""
RECORDS: Final = "_tracelet_records"
"""The entry of the summary with fingerprints, up to 200 a member."""
KEYS: Final = (POINTS, RECORDS)
_CHUNK: Final = 200


class Ledger:
    """What was logged of one run."""

    def __init__(self) -> None:
        self.records: set[str] = set()
        """Fingerprints."""
        self._series: defaultdict[str, Intervals] = defaultdict(Intervals)
        self._changed: set[str] = set()
        self._chunk: list[str] = []
        self._chunk_name = ""
        self._is_chunk_changed = False

    def load(self, stored: Mapping[str, Mapping[str, object]]) -> None:
        """Adds what :meth:`changes` returned once; its points are among the next changes."""
        for key, text in stored.get(POINTS, {}).items():
            for start, end in Intervals(str(text)):
                self.add(key, start, end)
        for text in stored.get(RECORDS, {}).values():
            self.records.update(str(text).split(","))

    def missing(self, key: str, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of a series that were not logged yet."""
        return self._series[key].missing(start, end)

    def add(self, key: str, start: int, end: int) -> None:
        """Notes points that were logged."""
        self._series[key].add(start, end)
        self._changed.add(key)

    def add_record(self, fingerprint: str) -> None:
        """Notes a record that was logged."""
        self.records.add(fingerprint)
        if len(self._chunk) in (0, _CHUNK):
            self._chunk, self._chunk_name = [], uuid.uuid4().hex[:12]
        self._chunk.append(fingerprint)
        self._is_chunk_changed = True

    def changes(self) -> dict[str, dict[str, str]]:
        """What is to be stored, by entry of the summary: members that changed since the last call."""
        changed: dict[str, dict[str, str]] = {}
        if self._changed:
            changed[POINTS] = {key: str(self._series[key]) for key in sorted(self._changed)}
        if self._is_chunk_changed:
            changed[RECORDS] = {self._chunk_name: ",".join(self._chunk)}
        self._changed.clear()
        self._is_chunk_changed = False
        return changed
