"""From the names of backends to deliveries: trackers and receivers through OTLP, others through exporters."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from os import PathLike, environ
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch, Destination, Receipt
from tracelet_otel.delivery.file import FileDestination
from tracelet_otel.delivery.otlp import forward
from tracelet_otel.delivery.routing import take_route
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.foundation.entry_points import find
from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.settings import ConfigurationError

if TYPE_CHECKING:  # that package imports this one
    from tracelet_otel.tracker.interface import Tracker

MOST_FAILURES = 3
"""Attempts at exporting records through an OpenTelemetry exporter, each with the exporter's own retries."""
FILE = "file"
OTLP = "otlp"
SPOOLS = "spool"
COMPANIONS = "companions"
TRACKER_GROUP = "tracelet_otel_tracker"
METRICS_GROUP = "opentelemetry_metrics_exporter"
LOGS_GROUP = "opentelemetry_logs_exporter"


def available() -> list[str]:
    """The names that :func:`make_delivery` knows."""
    names = {item.name for group in (TRACKER_GROUP, METRICS_GROUP) for item in entry_points(group=group)}
    names |= {FILE, OTLP}
    return sorted(name for name in names if not name.startswith("otlp_proto"))


def is_tracker(name: str) -> bool:
    """Whether a backend is a tracker, which takes OTLP and opens runs."""
    return find(TRACKER_GROUP, name) is not None


def is_ours(name: str) -> bool:
    """Whether a backend is one that no other OpenTelemetry has: a tracker, ``file`` or ``otlp``."""
    return name in (FILE, OTLP) or is_tracker(name)


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raises what :func:`make_delivery` raises, for one of ours.

    Raises:
        ConfigurationError: it is not installed, or it does not take an option.
    """
    _, others = take_route(name, options)
    tracker = find(TRACKER_GROUP, name)
    if tracker is not None:
        make_tracker(name, tracker, others)
    elif name == FILE:
        make_file(Path(), others, 0)
    else:
        forward.Forward(name, others)


def can_be_replayed(name: str) -> bool:
    """Whether a spool can be delivered to a backend."""
    return name in forward.NAMES or is_tracker(name)


def make_delivery(
    name: str,
    options: Mapping[str, Any],
    *,
    run: RunInfo,
    max_queue_bytes: int,
    state: Path,
    session: str,
    max_spool_bytes: int,
    signals: frozenset[Literal["metrics", "logs"]] = frozenset({"metrics", "logs"}),
) -> Delivery:
    """Starts the delivery to one backend.

    Args:
        name: a tracker, ``otlp``, ``console`` or any installed OpenTelemetry exporter.
        options: the backend's own keyword arguments, and those of its
            :class:`~tracelet_otel.delivery.routing.Route`.
        run: the run that metrics of other instruments belong to.
        max_queue_bytes: bound of the delivery's queue.
        state: folder of spools and companion files.
        session: the name of this process's folder below it.
        max_spool_bytes: bound of the delivery's spool.
        signals: what to send, for backends that are no trackers.

    Raises:
        ConfigurationError: there is no such backend, it is not installed, or it does not take an option.
    """
    route, options = take_route(name, options)
    folder = state / SPOOLS / session / name
    if name == FILE:
        destination: Destination = make_file(folder, options, max_spool_bytes)
        return Delivery(name, destination, max_queue_bytes=max_queue_bytes, route=route)
    if name in forward.NAMES:
        return Delivery(
            name,
            forward.Forward(name, options),
            max_queue_bytes=max_queue_bytes,
            spool=Spool(folder, max_bytes=max_spool_bytes),
            route=route,
            takes_all=True,
            signals=signals,
        )
    tracker = find(TRACKER_GROUP, name)
    if tracker is None:
        destination = StandardExporters(name, options, signals)
        return Delivery(name, destination, max_queue_bytes=max_queue_bytes, route=route, signals=signals)
    from tracelet_otel.tracker.exporter import TrackerExporter  # which imports this package

    destination = TrackerExporter(
        make_tracker(name, tracker, options), run=run, companions=state / COMPANIONS / name
    )
    spool = Spool(folder, max_bytes=max_spool_bytes)
    return Delivery(name, destination, max_queue_bytes=max_queue_bytes, spool=spool, route=route)


def make_file(folder: Path, options: Mapping[str, Any], max_bytes: int) -> FileDestination:
    """Backend ``file``; its option ``path`` is the folder to write to, in place of the spool's.

    Raises:
        ConfigurationError: there are other options, or ``path`` is no path.
    """
    path = options.get("path", folder)
    if options.keys() - {"path"} or not isinstance(path, (str, PathLike)):
        raise ConfigurationError(f"backend 'file' takes path, the name of a folder; got {dict(options)!r}")
    return FileDestination(Path(cast("str", path)).absolute(), max_bytes=max_bytes)


def make_tracker(name: str, entry_point: EntryPoint, options: Mapping[str, Any]) -> Tracker:
    """The client of a tracker; nothing is imported but its class.

    Raises:
        ConfigurationError: its library is not installed, or it does not take an option.
    """
    tracker_class = entry_point.load()
    if importlib.util.find_spec(tracker_class.library) is None:
        raise ConfigurationError(
            f"backend {name!r} needs the package {tracker_class.library}: "
            f"pip install 'tracelet-otel[{name}]', or choose among {', '.join(available())}"
        )
    try:
        return tracker_class(**options)
    except TypeError as error:
        raise ConfigurationError(f"backend {name!r} does not take these options: {error}") from error


class StandardExporters:
    """A backend that is an OpenTelemetry exporter: it gets the SDK's own objects.

    Raises:
        ConfigurationError: no exporter of that name is installed.
    """

    takes_otlp = False

    def __init__(
        self, name: str, options: Mapping[str, Any], signals: frozenset[Literal["metrics", "logs"]]
    ) -> None:
        self.name = name
        self._options = dict(options)
        self._metrics_entry = find(METRICS_GROUP, name) if "metrics" in signals else None
        self._logs_entry = find(LOGS_GROUP, name) if "logs" in signals else None
        if self._metrics_entry is None and self._logs_entry is None:
            raise ConfigurationError(
                f"no backend {name!r} is installed; available are {', '.join(available())}"
            )
        self._failures = 0
        self._metrics: Any = None  # a MetricExporter; the types of both are only partly known
        self._logs: Any = None

    def load(self) -> None:
        """Imports and constructs the exporters."""
        try:
            if self._metrics_entry is not None and self._metrics is None:
                self._metrics = self._metrics_entry.load()(**self._options)
            if self._logs_entry is not None and self._logs is None:
                self._logs = self._logs_entry.load()(**self._options)
        except Exception as error:
            raise PermanentError(f"exporter {self.name} cannot be made: {error}") from error

    def connect(self) -> None:
        """The exporters connect by themselves."""

    def send(self, batch: Batch) -> Receipt:
        """Exports one batch; a FAILURE is taken as transient, since exporters do not say which it is."""
        failed = ""
        if self._metrics is not None and isinstance(batch.metrics, MetricsData):
            failed = "" if self._metrics.export(batch.metrics) is MetricExportResult.SUCCESS else "metrics"
        if self._logs is not None and isinstance(batch.logs, list):
            failed = "" if self._logs.export(batch.logs) is LogRecordExportResult.SUCCESS else "records"
        self._failures = self._failures + 1 if failed else 0
        if failed == "records" and self._failures >= MOST_FAILURES:
            # Many receivers take no logs at all, which an exporter's FAILURE does not tell.
            self._failures = 0
            raise PermanentError(f"exporter {self.name} refuses records")
        if failed:
            raise TransientError(f"exporter {self.name} could not export {failed}")
        return Receipt(batch.points, batch.records)

    def close(self) -> None:
        """Shuts the exporters down."""
        if self._metrics is not None:
            self._metrics.shutdown()
        if self._logs is not None:
            self._logs.shutdown()

    def locations(self) -> list[str]:
        """Unknown: the exporters do not say."""
        return []

    def refusals(self) -> str:
        """Unknown: the exporters do not say."""
        return ""


def resolve_otlp(name: str) -> str:
    """The exporter of traces that ``otlp`` stands for; any other name is itself."""
    # As the SDK does: the variables say which protocol "otlp" means; gRPC is its default.
    # Source: OpenTelemetry specification, "OpenTelemetry Protocol Exporter".
    if name != "otlp":
        return name
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL")
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "grpc"
    ).strip()
    by_protocol = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
    if protocol not in by_protocol:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL must be one of {', '.join(sorted(by_protocol))}, got {protocol!r}"
        )
    return by_protocol[protocol]
