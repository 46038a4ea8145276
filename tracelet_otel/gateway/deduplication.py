"""Deduplication: remembers what one backend's spool was given, so that data that comes again is kept once.

Memory is bounded. A series costs one interval as long as its numbers follow each other, and is forgotten with
its run. Of everything without a number the latest digests are kept.
"""

from __future__ import annotations

from typing import Final

from tracelet_otel.gateway.validation import Element, Range
from tracelet_otel.otlp.intervals import Intervals

GENERATION: Final = 131_072
"""Digests that are remembered at least; at most twice as many."""


class Deduplicator:
    """What one backend has. Used under the intake's lock."""

    def __init__(self) -> None:
        self._series: dict[str, dict[bytes, Range | Intervals]] = {}
        self._digests: set[int] = set()
        self._earlier: set[int] = set()

    def missing(self, element: Element) -> tuple[Range, ...] | None:
        """The parts of an element that are new; None if nothing is.

        An element without a number has no parts: if it is new, the answer is ``()``.
        """
        if element.first is None:
            number = hash((element.run_id, element.key))
            return None if number in self._digests or number in self._earlier else ()
        known = self._series.get(element.run_id, {}).get(element.key)
        if known is None:
            return element.ranges
        found: list[Range] = []
        for start, end in element.ranges:
            if not isinstance(known, Intervals) and (start >= known[1] or end <= known[0]):
                found.append((start, end))
            else:
                found += _intervals(known).missing(start, end)
        return tuple(found) or None

    def add(self, run_id: str, key: bytes, parts: tuple[Range, ...]) -> None:
        """Notes what was kept of an element, as :meth:`missing` gave it. One without parts has no number."""
        if not parts:
            if len(self._digests) >= GENERATION:
                self._earlier, self._digests = self._digests, set()
            self._digests.add(hash((run_id, key)))
            return
        series = self._series.setdefault(run_id, {})
        known = series.get(key)
        for start, end in parts:
            if known is None:
                known = (start, end)
            elif not isinstance(known, Intervals) and start == known[1]:  # nearly always
                known = (known[0], end)
            else:
                known = _intervals(known)
                known.add(start, end)
            series[key] = known

    def forget(self, run_id: str) -> None:
        """Frees what is kept of a run."""
        self._series.pop(run_id, None)


def _intervals(known: Range | Intervals) -> Intervals:
    if isinstance(known, Intervals):
        return known
    intervals = Intervals()
    intervals.add(*known)
    return intervals
