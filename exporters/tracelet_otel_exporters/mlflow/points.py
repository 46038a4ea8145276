"""Points as MLflow takes them: which it can keep, which change, which it would merge; and batches of them."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from tracelet_otel.otlp.records import Point, Series
from tracelet_otel.tracker.interface import Outcome, PointAside, Problem
from tracelet_otel_exporters.mlflow import names
from tracelet_otel_exporters.mlflow.runs import Identity, OpenRun, Place, Seen

MAX_POINTS: Final = 1000
"""A request's limit."""
MAX_BYTES: Final = 900_000
"""Of a request's body: MLflow's documented limit is 1 MB."""
SYSTEM: Final = "system/"
"""How the machine's keys begin. A script's own tag of that form has its slash escaped."""
STAND_IN: Final = "stored natively as a stand-in: "
"""How the reason of a companion line begins whose point is shown all the same, near its value.

Without it the native point, if there is one of the same step and millisecond, is another that was logged.
"""

_INT64: Final = 2**63


class Sample(NamedTuple):
    """One point as MLflow gets it."""

    key: str
    value: float
    time_ms: int
    step: int
    tag: str


def samples(run: OpenRun, series: Series, outcome: Outcome, asides: set[Place]) -> Iterator[Sample]:
    """The points that MLflow can take; says in ``outcome`` what it cannot and what it changes.

    ``asides`` gets the places of the points that are set aside. Those that ``run.asides`` has are not set
    aside again: they are in the companion file since an earlier call, and this one is a repeat of it.
    """
    tag, key = series.tag, _key(series.tag, series.rank)
    run.note("metrics", key, f"{tag}/rank_{series.rank}" if series.rank else tag)
    ours: dict[Identity, int] = {}
    known = run.latest.setdefault(key, Seen())
    # NaN and the infinities of a tag have numbers of their own, which may be those of its finite points.
    value = series.points[0].value if series.points else 0.0
    numbered = key if math.isfinite(value) else f"{key}\0{value}"

    def aside(number: int, point: Point, reason: str) -> None:
        outcome.lossy.append(Problem(tag, reason))
        place = _place(series, number)
        if place is None or (numbered, place) not in run.asides:
            outcome.aside.append(PointAside(tag, series.rank, point, reason))
        if place is not None:
            asides.add((numbered, place))

    for number, point in enumerate(series.points):
        step, value, time_unix_nano = point
        if not -_INT64 <= step < _INT64:
            outcome.rejected.append(Problem(tag, f"step {step} is not a 64-bit integer"))
            continue
        time_ms = (time_unix_nano + 500_000) // 1_000_000
        reason = ""
        if time_ms < 0:
            reason, time_ms = STAND_IN + "time before 1970 became 1970: MLflow takes no other", 0
        elif math.isinf(value):
            reason = STAND_IN + "infinity is stored as the largest float"
        elif value == 0.0 and math.copysign(1.0, value) < 0.0:
            reason = STAND_IN + "SQLite has no negative zero"
        # MLflow's primary key. What it would merge anyway is left out: it makes a batch slow.
        stored = math.copysign(sys.float_info.max, value) if abs(value) == math.inf else value
        identity = (step, time_ms, None if value != value else stored)
        if identity in ours or (
            time_ms == known.time_ms and known.is_other(identity, _place(series, number))
        ):
            outcome.accepted += 1
            reason = f"step {step} repeats value and millisecond of another point: MLflow merges them"
            aside(number, point, reason)
            continue
        ours[identity] = number
        if reason:
            aside(number, point, reason)
        yield Sample(key, value, time_ms, step, tag)
    latest = max((time_ms for _, time_ms, _ in ours), default=-1)
    for identity, number in ours.items():
        if identity[1] == latest:
            known.add(identity, _place(series, number))


def _place(series: Series, number: int) -> int | None:
    """The number of a point within all of its series."""
    return None if series.sequence is None else series.sequence + number


def _key(tag: str, rank: int | None) -> str:
    """The key of a series; none of them is a measurement of the machine's."""
    key = names.metric_key(tag, rank)
    if not key.startswith(SYSTEM):
        return key
    escaped = f"{SYSTEM[:-1]}_x002F_{key[len(SYSTEM) :]}"
    if len(escaped) <= names.MAX_KEY:
        return escaped
    ending = f"/rank_{rank}" if rank else ""
    ending = f"_sha256_{hashlib.sha256(key.encode()).hexdigest()[:32]}{ending}"
    return escaped[: names.MAX_KEY - len(ending)] + ending


def batches(points: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Batches below both of a request's limits."""
    batch: list[Sample] = []
    size, key, key_size = 0, None, 0
    for point in points:
        if point.key != key:
            key = point.key
            key_size = len(json.dumps(key)) + 110  # the numbers and their names
        if batch and (len(batch) == MAX_POINTS or size + key_size > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += key_size
    if batch:
        yield batch


def as_json(points: Iterable[Sample]) -> list[dict[str, Any]]:
    """The points as MLflow's REST API has them."""
    return [{"key": p.key, "value": _json(p.value), "timestamp": p.time_ms, "step": p.step} for p in points]


def _json(value: float) -> float | str:
    """As protobuf's JSON mapping has it, which MLflow's server reads."""
    if value != value:
        return "NaN"
    return value if abs(value) != math.inf else "Infinity" if value > 0 else "-Infinity"
