"""Points in MLflow: which it can keep, which change, which it would merge, and how they are written.

A server gets them by its REST API, a store by ``log_batch``. That makes an object of SQLAlchemy's for each
point, which is nine tenths of its time. It also checks the run and the names, and keeps each key's newest
value in a table of its own, which the UI shows. So in a database only the last point of each key goes through
it. Those before go into the table of points first, whose order is that of what was logged. Where the last
point of a key is not its newest, everything goes through ``log_batch``.

Source of the table: ``SqlMetric`` in ``mlflow/store/tracking/dbmodels/models.py``.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from tracelet_otel.otlp.records import Point, Series
from tracelet_otel.tracker.interface import Outcome, PointAside, Problem
from tracelet_otel_exporters.mlflow import names, private
from tracelet_otel_exporters.mlflow.connection import refused_ones
from tracelet_otel_exporters.mlflow.runs import Identity, MLflowRun, Place, Seen

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
_COLUMNS: Final = ("run_uuid", "key", "timestamp", "step", "is_nan", "value")


class Sample(NamedTuple):
    """One point as MLflow gets it."""

    key: str
    value: float
    time_ms: int
    step: int
    tag: str


def samples(run: MLflowRun, series: Series, outcome: Outcome, asides: set[Place]) -> Iterator[Sample]:
    """The points that MLflow can take; says in ``outcome`` what it cannot and what it changes.

    ``asides`` gets the places of the points that are set aside. Those that ``run.asides`` has are not set
    aside again: they are in the companion file since an earlier call, and this one is a repeat of it.
    """
    tag, key = series.tag, _key(series.tag, series.rank)
    run.note("metrics", key, f"{tag}/rank_{series.rank}" if series.rank else tag)
    ours: dict[Identity, int | None] = {}
    known = run.latest.setdefault(key, Seen())
    # NaN and the infinities of a tag have numbers of their own, which may be those of its finite points.
    value = series.points[0].value if series.points else 0.0
    numbered = key if math.isfinite(value) else f"{key}\0{value}"

    def aside(number: int | None, point: Point, reason: str) -> None:
        outcome.lossy.append(Problem(tag, reason))
        if number is None or (numbered, number) not in run.asides:
            outcome.aside.append(PointAside(tag, series.rank, point, reason))
        if number is not None:
            asides.add((numbered, number))

    for index, point in enumerate(series.points):
        step, value, time_unix_nano = point
        if not -_INT64 <= step < _INT64:
            outcome.rejected.append(Problem(tag, f"step {step} is not a 64-bit integer"))
            continue
        number = None if series.sequence is None else series.sequence + index
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
        if identity in ours or (time_ms == known.time_ms and known.is_other(identity, number)):
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
            known.add(identity, number)


def write_samples(run: MLflowRun, points: Iterable[Sample]) -> Outcome:
    """Writes points, 1,000 a request; of those that MLflow refuses together, each on its own."""
    outcome = Outcome()
    for batch in batches(points):
        refused = refused_ones(batch, lambda points: _write_batch(run, points))
        outcome.rejected += [Problem(sample.tag, reason) for sample, reason in refused]
        outcome.accepted += len(batch) - len(refused)
    return outcome


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


def _key(tag: str, rank: int | None) -> str:
    """The key of a series; none of them is a measurement of the machine's."""
    key = names.metric_key(tag, rank)
    if not key.startswith(SYSTEM):
        return key
    escaped = f"{SYSTEM[:-1]}_x002F_{key[len(SYSTEM) :]}"
    if len(escaped) <= names.MAX_KEY:
        return escaped
    ending = f"_sha256_{hashlib.sha256(key.encode()).hexdigest()[:32]}" + (f"/rank_{rank}" if rank else "")
    return escaped[: names.MAX_KEY - len(ending)] + ending


def _write_batch(run: MLflowRun, batch: Sequence[Sample]) -> None:
    """Writes points of one run; a repeat changes nothing."""
    connection = run.connection
    with connection.calls():
        if connection.is_http and connection.post_points(
            run.id,
            [{"key": p.key, "value": _json(p.value), "timestamp": p.time_ms, "step": p.step} for p in batch],
        ):
            return
        from mlflow.entities import Metric

        rest = _without_inserted(connection.store, run.id, batch)
        metrics: list[Any] = [Metric(s.key, s.value, s.time_ms, s.step) for s in rest]
        connection.store.log_batch(run.id, metrics, [], [])


def _without_inserted(store: Any, run_id: str, batch: Sequence[Sample]) -> Sequence[Sample]:
    """Inserts what may go into a database's table of points, and returns the rest."""
    last = {sample.key: index for index, sample in enumerate(batch)}
    engine = private.engine_of(store) if len(last) < len(batch) else None
    if engine is None or private.SANITIZE.get(store) is None:
        return batch
    table: Any = getattr(private.POINTS_TABLE.get(), "__table__", None)
    if table is None or {column.name for column in table.columns} != {*_COLUMNS}:  # not as known here
        return batch
    stored = [store.sanitize_metric_value(sample.value) for sample in batch]
    newest: dict[str, tuple[int, int, float, int]] = {}
    for index, (key, _, time_ms, step, _) in enumerate(batch):
        order = (step, time_ms, stored[index][1], -index)  # MLflow's
        if key not in newest or order > newest[key]:
            newest[key] = order
    ends = set(last.values())
    if ends != {-order[3] for order in newest.values()}:
        return batch
    rows = [
        dict(zip(_COLUMNS, (run_id, sample.key, sample.time_ms, sample.step, *stored[index]), strict=True))
        for index, sample in enumerate(batch)
        if index not in ends
    ]
    from sqlalchemy.exc import IntegrityError

    try:
        with engine.begin() as connection:
            connection.execute(table.insert(), rows)
    except IntegrityError:  # a repeat: MLflow finds out what it has
        return batch
    return [batch[index] for index in sorted(ends)]


def _json(value: float) -> float | str:
    """As protobuf's JSON mapping has it, which MLflow's server reads."""
    if value != value:
        return "NaN"
    return value if abs(value) != math.inf else "Infinity" if value > 0 else "-Infinity"
