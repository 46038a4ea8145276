"""The backends of a gateway: each with a durable delivery, its spool and its deduplication."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tracelet_otel.backends.deliveries import make_file, make_tracker
from tracelet_otel.backends.names import COMPANIONS, FILE, SPOOLS, TRACKER_GROUP, available, is_tracker
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch, Destination
from tracelet_otel.delivery.routing import Route, take_route
from tracelet_otel.delivery.spool.frame import Entry
from tracelet_otel.delivery.spool.spool import Durability, Spool
from tracelet_otel.foundation.entry_points import find
from tracelet_otel.gateway.deduplication import Deduplicator
from tracelet_otel.gateway.measurements import Exports, MeasuredDestination
from tracelet_otel.gateway.runs import Runs
from tracelet_otel.gateway.validation import validate_logs, validate_metrics
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics
from tracelet_otel.settings import ConfigurationError
from tracelet_otel.tracker.exporter import TrackerExporter


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend."""

    delivery: Delivery
    deduplicator: Deduplicator
    spool: Spool


def make_backend(
    name: str,
    options: Mapping[str, Any],
    *,
    spools: Path,
    state: Path,
    runs: Runs,
    max_queue_bytes: int,
    max_spool_bytes: int,
    durability: Durability = Durability.DISK,
    exports: Exports | None = None,
) -> Backend:
    """Starts the durable delivery to one backend, first of what an earlier process left.

    Args:
        name: a tracker, or ``file``.
        options: the backend's own, and those of its :class:`~tracelet_otel.delivery.routing.Route`.
        spools: folder with the spool, below the backend's name. One process at a time may use it.
        state: folder of companion files, and of what backend ``file`` writes.
        runs: that are known; those that only the spool knows are added.
        max_queue_bytes: of what is in the spool this much is also kept in memory.
        max_spool_bytes: bound of the spool.
        durability: of the spool.
        exports: measures what is sent; None without measurements.

    Raises:
        ConfigurationError: there is no such backend, it takes no OTLP, or does not take an option.
        OSError: the spool cannot be read or written.
    """
    route, others = take_route(name, options)
    entry_point = find(TRACKER_GROUP, name)
    if name == FILE:
        session = f"{time.strftime('%Y%m%d-%H%M%S')}-gateway-{uuid.uuid4().hex[:6]}"
        sender = destination = make_file(state / SPOOLS / session / name, others, max_spool_bytes)
    elif entry_point is not None:
        sender = make_tracker(name, entry_point, others)
        destination = TrackerExporter(sender, companions=state / COMPANIONS / name, known=runs)
    else:
        allowed = ", ".join([*filter(is_tracker, available()), FILE])
        raise ConfigurationError(f"a gateway has no backend {name!r}; it delivers to {allowed}")
    if exports is not None:
        kind = f"{type(sender).__module__}.{type(sender).__qualname__}"
        destination = MeasuredDestination(name, kind, destination, exports)
    open_spool = partial(Spool, spools / name, max_bytes=max_spool_bytes, durability=durability)
    return open_backend(name, destination, route, open_spool, runs=runs, max_queue_bytes=max_queue_bytes)


def open_backend(
    name: str,
    destination: Destination,
    route: Route,
    open_spool: Callable[..., Spool],
    *,
    runs: Runs,
    max_queue_bytes: int,
) -> Backend:
    """The same for any destination that takes OTLP. ``open_spool`` is told what to do with what is left."""
    deduplicator = Deduplicator()
    left: list[Batch] = []

    def recovered(entry: Entry, load: Callable[[], Batch | None]) -> None:
        if entry.run in runs.filed and entry.keys is not None:
            for key, parts in entry.keys:
                deduplicator.add(entry.run, key, parts)
        elif (batch := load()) is not None:
            _remember(batch, deduplicator, runs)
        if entry.source:
            left.append(Batch(points=entry.points, records=entry.records, source=entry.source))

    spool = open_spool(recovered=recovered)
    delivery = Delivery(
        name, destination, max_queue_bytes=max_queue_bytes, spool=spool, route=route, rests=False, left=left
    )
    return Backend(delivery, deduplicator, spool)


def _remember(batch: Batch, deduplicator: Deduplicator, runs: Runs) -> None:
    """Notes what an earlier process kept. What the file of runs knows wins over what the spool says."""
    if isinstance(batch.metrics, bytes):
        validated = validate_metrics(parse_metrics(batch.metrics))
    elif isinstance(batch.logs, bytes):
        validated = validate_logs(parse_logs(batch.logs), None)
    else:
        return
    for element in validated.elements:
        deduplicator.add(element.run_id, element.key, element.ranges)
    elements = [element for element in validated.elements if element.run_id not in runs.filed]
    runs.note(elements, validated.resources)
