"""Which whole numbers there are of a series, as intervals: few, since nearly all follow each other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator


class Intervals:
    """Half-open intervals of whole numbers."""

    def __init__(self, text: str = "") -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for part in text.split(","):
            start, _, end = part.partition("-")
            if start.isdigit() and end.isdigit():
                self.add(int(start), int(end))

    def add(self, start: int, end: int) -> None:
        """Adds ``start`` to ``end - 1``."""
        if end <= start:
            return
        first = bisect_right(self._ends, start - 1)  # the first that touches us
        last = bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of ``start`` to ``end - 1`` that are not there."""
        parts: list[tuple[int, int]] = []
        place = bisect_right(self._ends, start)
        while start < end:
            if place == len(self._starts) or self._starts[place] >= end:
                parts.append((start, end))
                break
            if start < self._starts[place]:
                parts.append((start, self._starts[place]))
            start = self._ends[place]
            place += 1
        return parts

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __str__(self) -> str:
        return ",".join(f"{start}-{end}" for start, end in self)
