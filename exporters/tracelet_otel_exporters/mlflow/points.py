"""Points and measurements in MLflow: what it can keep, what changes, what it would merge, how it is written.

A server gets them by its REST API, a store by ``log_batch``. That makes an object of SQLAlchemy's for each
point, which is nine tenths of its time. It also checks the run and the names, and keeps each key's newest
value in a table of its own, which the UI shows. So in a database only the last point of each key goes through
it. Those before go into the table of points first, whose order is that of what was logged. Where the last
point of a key is not its newest, everything goes through ``log_batch``.

Source of the table: ``SqlMetric`` in ``mlflow/store/tracking/dbmodels/models.py``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tracelet_otel.otlp.records import Point, Series, SystemPoint
from tracelet_otel.semconv import nonfinite_name
from tracelet_otel.tracker.interface import Outcome, PointAside, Problem
from tracelet_otel_exporters.mlflow import names, private
from tracelet_otel_exporters.mlflow.connection import refused_ones
from tracelet_otel_exporters.mlflow.runs import Identity, MLflowRun, Place
from tracelet_otel_exporters.shared import safe_names
from tracelet_otel_exporters.shared.machine import GROWING, Reading, readings_by_host

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

_MOST_SEEN: Final = 100_000
"""Points of one millisecond: a script may give all of its points the same time."""
_INT64: Final = 2**63
_COLUMNS: Final = ("run_uuid", "key", "timestamp", "step", "is_nan", "value")


_MEGA: Final = 1e-6

_SYSTEM_NAMES: Final[Mapping[str, tuple[str, float]]] = {
    "cpu": ("cpu_utilization_percentage", 1.0),
    "cpu_core": ("cpu_{}_utilization_percentage", 1.0),
    "memory_percent": ("system_memory_usage_percentage", 1.0),
    "memory_used_bytes": ("system_memory_usage_megabytes", _MEGA),
    "memory_free_bytes": ("system_memory_free_megabytes", _MEGA),
    "disk_percent": ("disk_usage_percentage", 1.0),
    "disk_used_bytes": ("disk_usage_megabytes", _MEGA),
    "disk_free_bytes": ("disk_available_megabytes", _MEGA),
    "disk_read_bytes": ("disk_read_megabytes", _MEGA),
    "disk_write_bytes": ("disk_write_megabytes", _MEGA),
    "network_received_bytes": ("network_receive_megabytes", _MEGA),
    "network_sent_bytes": ("network_transmit_megabytes", _MEGA),
    "process_cpu": ("process_cpu_utilization_percentage", 1.0),
    "process_memory_bytes": ("process_memory_usage_megabytes", _MEGA),
    "process_memory_percent": ("process_memory_usage_percentage", 1.0),
    "process_threads": ("process_threads", 1.0),
    "gpu_utilization": ("gpu_{}_utilization_percentage", 1.0),
    "gpu_memory_percent": ("gpu_{}_memory_usage_percentage", 1.0),
    "gpu_memory_used_bytes": ("gpu_{}_memory_usage_megabytes", _MEGA),
    "gpu_memory_total_bytes": ("gpu_{}_memory_total_megabytes", _MEGA),
    "gpu_temperature_celsius": ("gpu_{}_temperature_celsius", 1.0),
    "gpu_power_watts": ("gpu_{}_power_usage_watts", 1.0),
    "gpu_power_limit_watts": ("gpu_{}_power_limit_watts", 1.0),
    "gpu_power_percent": ("gpu_{}_power_usage_percentage", 1.0),
    "gpu_energy_joules": ("gpu_{}_energy_joules", 1.0),
}
"""By quantity: MLflow's name, ``{}`` for the index, and its unit in ours.

Source: ``mlflow/system_metrics/metrics/*.py``; megabytes are of 1,000,000 bytes.
"""


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
    known = run.latest.setdefault(key, {})
    known_ms = next(iter(known), (0, -1, None))[1]
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
        # A call that comes again is told from a point that was logged again by the point's number.
        other = known.get(identity) if time_ms == known_ms and number is not None else None
        if identity in ours or other not in (None, number):
            outcome.accepted += 1
            reason = f"step {step} repeats value and millisecond of another point: MLflow merges them"
            aside(number, point, reason)
            continue
        ours[identity] = number
        if reason:
            aside(number, point, reason)
        yield Sample(key, value, time_ms, step, tag)
    latest = max((time_ms for _, time_ms, _ in ours), default=-1)
    if latest > known_ms:
        known.clear()
    for identity, number in ours.items():
        if identity[1] == latest >= known_ms and len(known) < _MOST_SEEN:
            known[identity] = number


def system_samples(run: MLflowRun, points: Sequence[SystemPoint]) -> list[Sample]:
    """Measurements of the machine as MLflow's own system metrics, which its "System metrics" tab shows.

    What MLflow's monitor does not measure gets a name of the same form; what has no quantity keeps
    OpenTelemetry's. Measurements with the attribute ``host.name`` get it into their name, as MLflow does for
    ``node_id``. The step is the whole number of seconds since the run was created, which grows when the run
    is resumed and does not collide when several processes write it.
    """
    return [
        _system_sample(run, f"{SYSTEM}{host}/" if host else SYSTEM, reading)
        for host, reading in readings_by_host(points)
    ]


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
    ending = f"/rank_{rank}" if rank else ""
    return safe_names.cut(key, escaped, names.MAX_KEY - len(ending)) + ending


def _system_sample(run: MLflowRun, prefix: str, reading: Reading) -> Sample:
    value = reading.value
    if (known := _SYSTEM_NAMES.get(reading.quantity)) is not None:
        tag = prefix + known[0].format(reading.part)
        if reading.quantity in GROWING:  # MLflow counts from its monitor's start, not from the machine's
            value = max(0.0, value - run.first_readings.setdefault(tag, value))
        value *= known[1]
    else:
        # "=" and "," are characters that MLflow refuses
        part = reading.part.replace("=", ":").replace(",", " ")
        tag = prefix + reading.quantity + (f"/{part}" if part else "")
    key = names.encode(tag)
    run.note("metrics", key, tag)
    time_ms = max(0, reading.time_unix_nano // 1_000_000)
    return Sample(key, value, time_ms, max(0, (time_ms - run.start_time_ms) // 1000), tag)


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
    return nonfinite_name(value) or value
