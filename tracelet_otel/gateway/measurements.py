"""Measures exports and requests by OpenTelemetry's semantic conventions."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.metrics import Counter, Meter, UpDownCounter

from tracelet_otel.delivery.destination import Batch, Destination, Receipt
from tracelet_otel.foundation.errors import TransientError
from tracelet_otel.gateway import instruments
from tracelet_otel.gateway.instruments import COMPONENT_NAME, COMPONENT_TYPE, ERROR_TYPE, Instrument
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics

REJECTED: Final = "rejected"
"""The ``error.type`` of what a backend refused, if it took the rest of the request."""
_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes of gRPC for failures of the server, not of the caller."""


class Requests:
    """Measures the requests of the servers."""

    def __init__(self, meter: Meter) -> None:
        self._http = instruments.histogram(meter, instruments.HTTP_DURATION)
        self._rpc = instruments.histogram(meter, instruments.RPC_DURATION)

    def answered(self, began: float, *, method: str, scheme: str, route: str, status: int) -> None:
        """Measures a request of HTTP that is answered.

        Args:
            began: when, of ``time.monotonic()``.
            method: of HTTP.
            scheme: ``http`` or ``https``.
            route: the path; empty if there is no such path.
            status: of HTTP.
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
        def counter(instrument: Instrument) -> Counter:
            return meter.create_counter(instrument.name, instrument.unit, instrument.meaning)

        def up_down_counter(instrument: Instrument) -> UpDownCounter:
            return meter.create_up_down_counter(instrument.name, instrument.unit, instrument.meaning)

        self.data_points = counter(instruments.DATA_POINTS_EXPORTED)
        self.data_points_inflight = up_down_counter(instruments.DATA_POINTS_INFLIGHT)
        self.logs = counter(instruments.LOGS_EXPORTED)
        self.logs_inflight = up_down_counter(instruments.LOGS_INFLIGHT)
        self.duration = instruments.histogram(meter, instruments.EXPORT_DURATION)


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
        self._end(export, min(receipt.rejected, export.items), REJECTED)
        return receipt

    def _begin(self, batch: Batch) -> _Export:
        exports = self._exports
        if isinstance(batch.metrics, bytes):
            export = _Export(
                batch, _data_points(batch.metrics), exports.data_points, exports.data_points_inflight
            )
        else:
            assert isinstance(batch.logs, bytes)
            export = _Export(batch, _log_records(batch.logs), exports.logs, exports.logs_inflight)
        export.inflight.add(export.items, self._attributes)
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


def _data_points(data: bytes) -> int:
    return sum(
        len(getattr(metric, metric.WhichOneof("data") or "gauge").data_points)
        for resource in parse_metrics(data).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


def _log_records(data: bytes) -> int:
    resources = parse_logs(data).resource_logs
    return sum(len(scope.log_records) for resource in resources for scope in resource.scope_logs)
