"""The backends of a gateway: for each a durable delivery, and what it was given already."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracelet_otel.backends import registry as backends
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch, Destination
from tracelet_otel.delivery.routing import Route, take_route
from tracelet_otel.delivery.spool.frame import Entry
from tracelet_otel.delivery.spool.spool import Durability, Spool
from tracelet_otel.foundation import entry_points as installed
from tracelet_otel.gateway.items import check_logs, check_metrics
from tracelet_otel.gateway.measured import Exports, MeasuredDestination
from tracelet_otel.gateway.runs import Runs
from tracelet_otel.gateway.seen import Seen
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics, presumed_run, run_info
from tracelet_otel.semconv import RUN_STATUS, STATUS_INFERRED
from tracelet_otel.settings import ConfigurationError
from tracelet_otel.tracker.exporter import TrackerExporter


@dataclass(frozen=True, slots=True)
class Outlet:
    """One backend."""

    delivery: Delivery
    seen: Seen
    spool: Spool


def make_outlet(
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
) -> Outlet:
    """Starts the durable delivery to one backend, first of what an earlier process left.

    Args:
        name: a tracker, or ``file``.
        options: the backend's own, and those of its :class:`~tracelet_otel.delivery.routing.Route`.
        spools: folder with the spool, below the backend's name. One process at a time may use it.
        state: folder of companion files, and of what backend ``file`` writes.
        runs: that are known; those that only the spool knows are added.
        max_queue_bytes: of what is in the spool this much is also kept in memory.
        max_spool_bytes: bound of the spool.
        rests: whether the process has better things to do, see
            :class:`~tracelet_otel.delivery.delivery.Delivery`.
        durability: of the spool.
        exports: measure what is sent, if somebody wants to know.

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
    return open_outlet(
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


def open_outlet(
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
) -> Outlet:
    """The same for any destination that takes OTLP; ``folder`` is that of the spool."""
    seen = Seen()
    left: list[Batch] = []

    def recovered(entry: Entry, load: Callable[[], Batch | None]) -> None:
        is_known = runs.get(entry.run) is not None and entry.run not in runs.recovered
        if is_known and entry.keys is not None:
            for key, parts in entry.keys:
                seen.add_key(entry.run, key, parts)
        elif (batch := load()) is not None:
            remember(batch, seen, runs)
        if entry.source:
            left.append(Batch(points=entry.points, records=entry.records, source=entry.source))

    spool = Spool(folder, max_bytes=max_spool_bytes, durability=durability, recovered=recovered)
    delivery = Delivery(
        name, destination, max_queue_bytes=max_queue_bytes, spool=spool, route=route, rests=rests, left=left
    )
    return Outlet(delivery, seen, spool)


def _destination(
    name: str, options: Mapping[str, Any], state: Path, runs: Runs, max_bytes: int
) -> Destination:
    if name == backends.FILE:
        session = f"{time.strftime('%Y%m%d-%H%M%S')}-gateway-{uuid.uuid4().hex[:6]}"
        return backends.make_file(state / backends.SPOOLS / session / name, options, max_bytes)
    entry_point = installed.find(backends.TRACKER_GROUP, name)
    if entry_point is None:
        trackers = [known for known in backends.available() if backends.is_tracker(known)]
        allowed = ", ".join([*trackers, backends.FILE])
        raise ConfigurationError(f"a gateway has no backend {name!r}; it delivers to {allowed}")
    tracker = backends.make_tracker(name, entry_point, options)
    return TrackerExporter(tracker, companions=state / backends.COMPANIONS / name, known=runs)


def remember(batch: Batch, seen: Seen, runs: Runs) -> None:
    """Notes what an earlier process had kept. What is known of its runs goes before what its spool says."""
    if isinstance(batch.metrics, bytes):
        checked = check_metrics(parse_metrics(batch.metrics))
    elif isinstance(batch.logs, bytes):
        checked = check_logs(parse_logs(batch.logs), None)
    else:
        return
    known: set[str] = set()
    for item in checked.items:
        seen.add(item, item.ranges)
        if item.run_id in known or (runs.get(item.run_id) is not None and item.run_id not in runs.recovered):
            continue
        runs.recovered.add(item.run_id)
        record = item.record
        if record is not None and record.kind == "run":
            runs.run(run_info(record), record.time_unix_nano)
        elif record is not None and record.kind == "status":
            inferred = record.attributes.get(STATUS_INFERRED) is True
            runs.status(
                item.run_id, str(record.attributes[RUN_STATUS]), record.time_unix_nano, inferred=inferred
            )
        elif item.kind != "system" and (item.points or record is not None):
            info = presumed_run(item.run_id, [checked.resources[item.place[0]]])
            runs.value(item.run_id, info)
