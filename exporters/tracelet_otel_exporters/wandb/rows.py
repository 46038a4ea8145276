"""From series of points to the rows of a W&B history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from tracelet_otel.otlp.records import Point

JOIN_NS: Final = 100_000_000
"""Points of one step whose times are this close share a row, with the time of the first."""


class Row:
    """One row of the history: some metrics of one step at one time."""

    __slots__ = ("step", "time", "values")

    def __init__(self, step: int, time: int) -> None:
        self.step = step
        self.time = time
        self.values: dict[str, float] = {}


def rows(series: Iterable[tuple[str, Sequence[Point]]]) -> list[Row]:
    """Joins series, by their keys, to rows: by time, and a key at most once a row."""
    by_step: defaultdict[int, list[Row]] = defaultdict(list)
    for key, points in series:
        taken: dict[int, int] = {}  # by step: the first of its rows that this series may still go into
        for step, value, time in points:
            same_step = by_step[step]
            place = taken.get(step, 0)
            while place < len(same_step) and (
                same_step[place].time < time - JOIN_NS or key in same_step[place].values
            ):
                place += 1
            if place == len(same_step) or same_step[place].time > time + JOIN_NS:
                same_step.insert(place, Row(step, time))
            same_step[place].values[key] = value
            taken[step] = place + 1
    return sorted((row for same_step in by_step.values() for row in same_step), key=lambda row: row.time)
