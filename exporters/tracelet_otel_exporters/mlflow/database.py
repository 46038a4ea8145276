"""Points for MLflow's store, and a shorter way for those of a store that is a database.

``log_batch`` makes an object of SQLAlchemy's for each point, which is nine tenths of its time. It also checks
the run and the names, and keeps each key's newest value in a table of its own, which the UI shows. So the
last point of each key goes through it, and those before, first, into the table of points: its order is that
of what was logged. Where the last point of a key is not its newest, everything goes through ``log_batch``.

Source of the table: ``SqlMetric`` in ``mlflow/store/tracking/dbmodels/models.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tracelet_otel_exporters.mlflow import private
from tracelet_otel_exporters.mlflow.points import Sample

_COLUMNS: Final = {"run_uuid", "key", "value", "timestamp", "step", "is_nan"}


def log(store: Any, run_id: str, batch: Sequence[Sample]) -> None:
    """Writes points of one run; a repeat changes nothing. Raises what MLflow and SQLAlchemy raise."""
    last = {sample.key: index for index, sample in enumerate(batch)}
    table = _table(store) if len(last) < len(batch) else None
    if table is None or _newest(store, batch) != set(last.values()):
        _log_batch(store, run_id, batch)
        return
    from sqlalchemy.exc import IntegrityError

    ends = set(last.values())
    rows = [_row(store, run_id, sample) for index, sample in enumerate(batch) if index not in ends]
    try:
        with private.engine_of(store).begin() as connection:
            connection.execute(table.insert(), rows)
    except IntegrityError:  # a repeat: MLflow finds out what it has
        _log_batch(store, run_id, batch)
    else:
        _log_batch(store, run_id, [batch[index] for index in sorted(ends)])


def _log_batch(store: Any, run_id: str, samples: Sequence[Sample]) -> None:
    from mlflow.entities import Metric

    entities: list[Any] = [Metric(s.key, s.value, s.time_ms, s.step) for s in samples]
    store.log_batch(run_id, entities, [], [])


def _table(store: Any) -> Any:
    """The table of points, if the store is a database and the table is as this module knows it."""
    if private.engine_of(store) is None or private.SANITIZE.get(store) is None:
        return None
    table = getattr(private.POINTS_TABLE.get(), "__table__", None)
    return table if table is not None and {c.name for c in table.columns} == _COLUMNS else None


def _newest(store: Any, batch: Sequence[Sample]) -> set[int]:
    """The place of each key's newest point, by MLflow's order of step, time and value."""
    places: dict[str, int] = {}
    orders: dict[str, tuple[int, int]] = {}
    for index, (key, value, time_ms, step, _) in enumerate(batch):
        order, known = (step, time_ms), orders.get(key)
        if known is not None and order <= known:
            if order < known:
                continue
            before = store.sanitize_metric_value(batch[places[key]].value)[1]
            if store.sanitize_metric_value(value)[1] <= before:
                continue
        places[key], orders[key] = index, order
    return set(places.values())


def _row(store: Any, run_id: str, sample: Sample) -> dict[str, object]:
    is_nan, value = store.sanitize_metric_value(sample.value)
    return {
        "run_uuid": run_id,
        "key": sample.key,
        "value": value,
        "timestamp": sample.time_ms,
        "step": sample.step,
        "is_nan": is_nan,
    }
