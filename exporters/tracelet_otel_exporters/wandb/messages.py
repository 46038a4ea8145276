"""The messages to ``wandb-core`` that W&B's client would send, serialized."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tracelet_otel_exporters.wandb import private
from tracelet_otel_exporters.wandb.names import STEP
from tracelet_otel_exporters.wandb.rows import Row

_NONFINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""How W&B's JSON writes what Python prints."""


def history(run_id: str, rows: Iterable[Row]) -> list[bytes]:
    """What ``Run.log`` would send for each row; never with a step of W&B's own, below which it drops rows."""
    requests: list[bytes] = []
    request = private.request(run_id)
    items = request.record_publish.request.partial_history.item
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
        requests.append(request.SerializeToString())
    return requests


def summary(run_id: str, entry: str, values: Mapping[str, str]) -> bytes:
    """Sets members of one entry of the run's summary."""
    request = private.request(run_id)
    for name, value in values.items():
        request.record_publish.summary.update.add(nested_key=[entry, name], value_json=json.dumps(value))
    return request.SerializeToString()


def config(run_id: str, key: Sequence[str], value: object) -> bytes:
    """Sets one entry of the run's config."""
    request = private.request(run_id)
    request.record_publish.config.update.add(nested_key=key, value_json=json.dumps(value))
    return request.SerializeToString()


def file(run_id: str, name: str) -> bytes:
    """Has a file in the run's folder uploaded now."""
    request = private.request(run_id)
    request.record_publish.files.files.add(path=name)  # the policy of number 0 is "now"
    return request.SerializeToString()


def measurements(run_id: str, time: int, values: Mapping[str, float]) -> bytes:
    """What W&B's own monitor would hand on, measured at ``time``, nanoseconds since 1970."""
    request = private.request(run_id)
    stats = request.record_publish.stats
    stats.timestamp.FromNanoseconds(time)
    for key, value in values.items():
        stats.item.add(key=key, value_json=json.dumps(value))
    return request.SerializeToString()
