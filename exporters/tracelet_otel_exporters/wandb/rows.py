"""From series of points to the rows of a W&B history, and to the messages that log them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tracelet_otel.otlp.records import Point
from tracelet_otel_exporters.wandb.names import STEP
from tracelet_otel_exporters.wandb.session import framed, server_messages

JOIN_NS: Final = 100_000_000
"""Points of one step whose times are this close share a row, with the time of the first."""
_NONFINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""How W&B's JSON has what Python prints."""


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
    return sorted((row for same_step in by_step.values() for row in same_step), key=_time)


def _time(row: Row) -> int:
    return row.time


def messages(run_id: str, rows: Iterable[Row]) -> list[bytes]:
    """What ``Run.log`` would send for each row; never with a step of W&B's own, below which it drops rows."""
    requests: list[bytes] = []
    request: Any = server_messages().ServerRequest()
    record = request.record_publish
    record._info.stream_id = run_id
    items = record.request.partial_history.item
    keys: list[str] | None = None
    step: Any = None
    timestamp: Any = None
    for row in rows:
        if keys != (found := [*row.values]):
            keys = found
            del items[:]
            for key in keys:
                items.add(key=key)
            step, timestamp = items.add(key=STEP), items.add(key="_timestamp")
        # One message that is filled again costs half of one for each row.
        step.value_json = str(row.step)
        timestamp.value_json = repr(row.time / 1e9)
        for item, value in zip(items, row.values.values(), strict=False):
            text = repr(value)
            item.value_json = _NONFINITE.get(text, text)
        requests.append(framed(request))
    return requests


def summary(run_id: str, entry: str, values: dict[str, str]) -> bytes:
    """A message that sets members of one entry of the run's summary."""
    request: Any = server_messages().ServerRequest()
    request.record_publish._info.stream_id = run_id
    for name, value in values.items():
        request.record_publish.summary.update.add(nested_key=[entry, name], value_json=json.dumps(value))
    return framed(request)
