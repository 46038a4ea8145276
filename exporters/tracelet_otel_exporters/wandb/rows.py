"""From series of points to the rows of a W&B history, and to the messages that log them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tracelet_otel.otlp.records import Point
from tracelet_otel_exporters.wandb import private
from tracelet_otel_exporters.wandb.names import STEP

JOIN_NS: Final = 100_000_000
"""Points of one step whose times are this close share a row, with the time of the first."""
_NONFINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""How W&B's JSON writes what Python prints."""


@dataclass(slots=True)
class Row:
    """One row of the history: some metrics of one step at one time."""

    step: int
    time: int
    values: dict[str, float] = field(default_factory=dict[str, float])


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


def messages(run_id: str, rows: Iterable[Row]) -> Iterator[Any]:
    """What ``Run.log`` would send for each row; never with a step of W&B's own, below which it drops rows.

    It is one message, filled again for each row, which costs half as much.
    """
    message = private.request(run_id)
    items = message.record_publish.request.partial_history.item
    keys: list[str] = []
    for row in rows:
        if keys != (found := [*row.values, STEP, "_timestamp"]):
            keys = found
            del items[:]
            for key in keys:
                items.add(key=key)
        for item, value in zip(items, (*row.values.values(), row.step, row.time / 1e9), strict=True):
            text = repr(value)
            item.value_json = _NONFINITE.get(text, text)
        yield message
