"""The backends of a gateway: each with a durable delivery, its spool and its deduplication."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracelet_otel.backends.deliveries import make_file, make_tracker
from tracelet_otel.backends.names import COMPANIONS, FILE, SPOOLS, TRACKER_GROUP, available, is_tracker
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch, Destination
from tracelet_otel.delivery.routing import Route, take_route
from tracelet_otel.delivery.spool.frame import Entry
from tracelet_otel.delivery.spool.spool import Durability, Spool
from tracelet_otel.foundation import entry_points as installed
from tracelet_otel.gateway.deduplication import Deduplicator
from tracelet_otel.gateway.measurements import Exports, MeasuredDestination
from tracelet_otel.gateway.runs import Runs
from tracelet_otel.gateway.validation import validate_logs, validate_metrics
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics, presumed_run, run_info
from tracelet_otel.semconv import RUN_STATUS, STATUS_INFERRED
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
    rests: bool = False,
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
        rests: whether the process has other work to do, see
            :class:`~tracelet_otel.delivery.delivery.Delivery`.
        durability: of the spool.
        exports: measures what is sent; None without measurements.

    Raises:
        ConfigurationError: there is no such backend, it takes no OTLP, or does not take an option.
        OSError: the spool cannot be read or written.
    """
    route, others = take_route(name, options)
    destination = _destination(name, others, state, runs, max_spool_bytes)
    if exports is not None:
        sender = destination.tracker if isinstance(destination, TrackerExporter) else destination
        kind = f"{type(sender).__module__}.{type(sender).__qualname__}"
        destination = MeasuredDestination(name, kind, destination, exports)
    return open_backend(
        name,
        destination,
        route,
        folder=spools / name,
        runs=runs,
        max_queue_bytes=max_queue_bytes,
        max_spool_bytes=max_spool_bytes,
        rests=rests,
        durability=durability,
    )


def open_backend(
    name: str,
    destination: Destination,
    route: Route,
    *,
    folder: Path,
    runs: Runs,
    max_queue_bytes: int,
    max_spool_bytes: int,
    rests: bool = False,
    durability: Durability = Durability.DISK,
) -> Backend:
    """The same for any destination that takes OTLP. ``folder`` is the spool's."""
    deduplicator = Deduplicator()
    left: list[Batch] = []

    def recovered(entry: Entry, load: Callable[[], Batch | None]) -> None:
        is_known = runs.get(entry.run) is not None and entry.run not in runs.recovered
        if is_known and entry.keys is not None:
            for key, parts in entry.keys:
                deduplicator.add_key(entry.run, key, parts)
        elif (batch := load()) is not None:
            remember(batch, deduplicator, runs)
        if entry.source:
            left.append(Batch(points=entry.points, records=entry.records, source=entry.source))

    spool = Spool(folder, max_bytes=max_spool_bytes, durability=durability, recovered=recovered)
    delivery = Delivery(
        name, destination, max_queue_bytes=max_queue_bytes, spool=spool, route=route, rests=rests, left=left
    )
    return Backend(delivery, deduplicator, spool)


def _destination(
    name: str, options: Mapping[str, Any], state: Path, runs: Runs, max_bytes: int
) -> Destination:
    if name == FILE:
        session = f"{time.strftime('%Y%m%d-%H%M%S')}-gateway-{uuid.uuid4().hex[:6]}"
        return make_file(state / SPOOLS / session / name, options, max_bytes)
    entry_point = installed.find(TRACKER_GROUP, name)
    if entry_point is None:
        trackers = [known for known in available() if is_tracker(known)]
        allowed = ", ".join([*trackers, FILE])
        raise ConfigurationError(f"a gateway has no backend {name!r}; it delivers to {allowed}")
    tracker = make_tracker(name, entry_point, options)
    return TrackerExporter(tracker, companions=state / COMPANIONS / name, known=runs)


def remember(batch: Batch, deduplicator: Deduplicator, runs: Runs) -> None:
    """Notes what an earlier process kept. What is known of its runs wins over what its spool says."""
    if isinstance(batch.metrics, bytes):
        validated = validate_metrics(parse_metrics(batch.metrics))
    elif isinstance(batch.logs, bytes):
        validated = validate_logs(parse_logs(batch.logs), None)
    else:
        return
    known: set[str] = set()
    for element in validated.elements:
        deduplicator.add(element, element.ranges)
        if element.run_id in known or (
            runs.get(element.run_id) is not None and element.run_id not in runs.recovered
        ):
            continue
        runs.recovered.add(element.run_id)
        record = element.record
        if record is not None and record.kind == "run":
            runs.run(run_info(record), record.time_unix_nano)
        elif record is not None and record.kind == "status":
            inferred = record.attributes.get(STATUS_INFERRED) is True
            runs.status(
                element.run_id, str(record.attributes[RUN_STATUS]), record.time_unix_nano, inferred=inferred
            )
        elif element.kind != "system" and (element.points or record is not None):
            info = presumed_run(element.run_id, [validated.resources[element.place[0]]])
            runs.value(element.run_id, info)
