"""Measures exports and requests by OpenTelemetry's semantic conventions.

Names and meanings are the conventions'. Source: "OpenTelemetry SDK metrics", "HTTP metrics" and "RPC metrics"
of the Semantic Conventions, as in ``opentelemetry-semantic-conventions`` 0.66b2.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.metrics import Counter, Meter, UpDownCounter

from tracelet_otel.delivery.destination import Batch, Destination, Receipt
from tracelet_otel.foundation.errors import TransientError
from tracelet_otel.otlp import traversal
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics

COMPONENT_NAME: Final = "otel.component.name"
"""The name of an exporter's backend."""
COMPONENT_TYPE: Final = "otel.component.type"
ERROR_TYPE: Final = "error.type"
_REJECTED: Final = "rejected"
"""The ``error.type`` of what a backend refused, if it took the rest of the request."""
_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes of gRPC for failures of the server, not of the caller."""
_SERVER_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Those of the conventions of HTTP and RPC."""
_EXPORT_BOUNDS: Final = (*_SERVER_BOUNDS, 30, 60, 300, 900, 3600)
"""An export goes on until its tracker is back; the conventions leave the bounds open."""


class Requests:
    """Measures the requests of the servers."""

    def __init__(self, meter: Meter) -> None:
        self._http = meter.create_histogram(
            "http.server.request.duration",
            "s",
            "Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=_SERVER_BOUNDS,
        )
        self._rpc = meter.create_histogram(
            "rpc.server.call.duration",
            "s",
            "Measures the duration of an incoming Remote Procedure Call (RPC).",
            explicit_bucket_boundaries_advisory=_SERVER_BOUNDS,
        )

    def answered(self, began: float, *, method: str, scheme: str, route: str, status: int) -> None:
        """Measures a request of HTTP that is answered.

        ``began`` is of ``time.monotonic()``; ``route`` is the path, and empty if there is no such path.
        """
        attributes: dict[str, str | int] = {
            "http.request.method": method if method in _METHODS else "_OTHER",
            "url.scheme": scheme,
            "http.response.status_code": status,
        }
        if route:
            attributes["http.route"] = route
        if status >= 500:
            attributes[ERROR_TYPE] = str(status)
        self._http.record(time.monotonic() - began, attributes)

    def called(self, began: float, *, method: str, code: str) -> None:
        """Measures a call of gRPC that is answered, by service and method and the code's name."""
        attributes = {"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": code}
        if code in _SERVER_FAULTS:
            attributes[ERROR_TYPE] = code
        self._rpc.record(time.monotonic() - began, attributes)


class Exports:
    """Measures what the backends are sent."""

    def __init__(self, meter: Meter) -> None:
        def counters(item: str, unit: str, items: str) -> tuple[Counter, UpDownCounter]:
            exported = meter.create_counter(
                f"otel.sdk.exporter.{item}.exported",
                unit,
                f"The number of {items} for which the export has finished, either successful or failed.",
            )
            inflight = meter.create_up_down_counter(
                f"otel.sdk.exporter.{item}.inflight",
                unit,
                f"The number of {items} which were passed to the exporter, but that have not been exported "
                "yet (neither successful, nor failed).",
            )
            return exported, inflight

        self.data_points = counters("metric_data_point", "{data_point}", "metric data points")
        self.logs = counters("log", "{log_record}", "log records")
        self.duration = meter.create_histogram(
            "otel.sdk.exporter.operation.duration",
            "s",
            "The duration of exporting a batch of telemetry records.",
            explicit_bucket_boundaries_advisory=_EXPORT_BOUNDS,
        )


@dataclass(frozen=True, slots=True)
class _Export:
    """One batch on its way, from the first attempt to the last."""

    batch: Batch
    items: int
    """Data points or log records."""
    exported: Counter
    inflight: UpDownCounter
    began: float = field(default_factory=time.monotonic)


class MeasuredDestination:
    """A destination that measures what it is sent: OTLP bytes, of one signal each.

    Args:
        name: the backend's.
        kind: names the type of what sends.
        destination: where to.
        exports: take the measurements.
    """

    def __init__(self, name: str, kind: str, destination: Destination, exports: Exports) -> None:
        self.takes_otlp = destination.takes_otlp
        self.load = destination.load
        self.connect = destination.connect
        self.close = destination.close
        self.locations = destination.locations
        self.refusals = destination.refusals
        self._send = destination.send
        self._exports = exports
        self._attributes = {COMPONENT_NAME: name, COMPONENT_TYPE: kind}
        self._export: _Export | None = None

    def send(self, batch: Batch) -> Receipt:
        """Sends a batch; raises what the destination raises."""
        export = self._export
        if export is None or export.batch is not batch:
            export = self._export = self._begin(batch)
        try:
            receipt = self._send(batch)
        except TransientError:
            raise  # the same batch comes again
        except Exception as error:
            self._end(export, export.items, type(error.__cause__ or error).__qualname__)
            raise
        self._end(export, min(receipt.rejected, export.items), _REJECTED)
        return receipt

    def _begin(self, batch: Batch) -> _Export:
        if isinstance(batch.metrics, bytes):
            metrics = traversal.metrics(parse_metrics(batch.metrics))
            items = sum(len(traversal.data_points(metric)) for metric in metrics)
            export = _Export(batch, items, *self._exports.data_points)
        else:
            assert isinstance(batch.logs, bytes)
            items = sum(1 for _ in traversal.log_records(parse_logs(batch.logs)))
            export = _Export(batch, items, *self._exports.logs)
        export.inflight.add(items, self._attributes)
        return export

    def _end(self, export: _Export, failed: int, error_type: str) -> None:
        self._export = None
        with_error = {**self._attributes, ERROR_TYPE: error_type}
        export.inflight.add(-export.items, self._attributes)
        if failed < export.items:
            export.exported.add(export.items - failed, self._attributes)
        if failed:
            export.exported.add(failed, with_error)
        seconds = time.monotonic() - export.began
        self._exports.duration.record(seconds, with_error if failed else self._attributes)
