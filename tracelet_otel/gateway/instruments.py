"""The gateway's own metrics: names, units, and the keys of their attributes.

Where OpenTelemetry has a convention, name and meaning are the convention's. Source: "OpenTelemetry SDK
metrics", "HTTP metrics" and "RPC metrics" of the Semantic Conventions, as in
``opentelemetry-semantic-conventions`` 0.66b2. The rest begins with ``tracelet.gateway.``.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from opentelemetry.metrics import Histogram, Meter

COMPONENT_NAME: Final = "otel.component.name"
"""The name of an exporter's backend."""
COMPONENT_TYPE: Final = "otel.component.type"
ERROR_TYPE: Final = "error.type"


class Instrument(NamedTuple):
    """One metric."""

    name: str
    kind: Literal["counter", "up_down_counter", "histogram"]
    unit: str
    meaning: str
    bounds: tuple[float, ...] = ()
    """Of a histogram's buckets."""


_SERVER_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Those of the conventions of HTTP and RPC."""
_EXPORT_BOUNDS: Final = (*_SERVER_BOUNDS, 30, 60, 300, 900, 3600)
"""An export goes on until its tracker is back; the conventions leave the bounds open."""

# -- exporters ----------------------------------------------------------------------------------
DATA_POINTS_EXPORTED: Final = Instrument(
    "otel.sdk.exporter.metric_data_point.exported",
    "counter",
    "{data_point}",
    "The number of metric data points for which the export has finished, either successful or failed.",
)
DATA_POINTS_INFLIGHT: Final = Instrument(
    "otel.sdk.exporter.metric_data_point.inflight",
    "up_down_counter",
    "{data_point}",
    "The number of metric data points which were passed to the exporter, but that have not been exported yet "
    "(neither successful, nor failed).",
)
LOGS_EXPORTED: Final = Instrument(
    "otel.sdk.exporter.log.exported",
    "counter",
    "{log_record}",
    "The number of log records for which the export has finished, either successful or failed.",
)
LOGS_INFLIGHT: Final = Instrument(
    "otel.sdk.exporter.log.inflight",
    "up_down_counter",
    "{log_record}",
    "The number of log records which were passed to the exporter, but that have not been exported yet "
    "(neither successful, nor failed).",
)
EXPORT_DURATION: Final = Instrument(
    "otel.sdk.exporter.operation.duration",
    "histogram",
    "s",
    "The duration of exporting a batch of telemetry records.",
    _EXPORT_BOUNDS,
)

# -- servers ------------------------------------------------------------------------------------
HTTP_DURATION: Final = Instrument(
    "http.server.request.duration", "histogram", "s", "Duration of HTTP server requests.", _SERVER_BOUNDS
)
RPC_DURATION: Final = Instrument(
    "rpc.server.call.duration",
    "histogram",
    "s",
    "Measures the duration of an incoming Remote Procedure Call (RPC).",
    _SERVER_BOUNDS,
)
CONVENTIONS: Final = (
    DATA_POINTS_EXPORTED,
    DATA_POINTS_INFLIGHT,
    LOGS_EXPORTED,
    LOGS_INFLIGHT,
    EXPORT_DURATION,
    HTTP_DURATION,
    RPC_DURATION,
)


# -- without a convention -----------------------------------------------------------------------
def _counter(name: str, unit: str, meaning: str) -> Instrument:
    return Instrument(f"tracelet.gateway.{name}", "counter", unit, meaning)


def _level(name: str, unit: str, meaning: str) -> Instrument:
    return Instrument(f"tracelet.gateway.{name}", "up_down_counter", unit, meaning)


POINTS_RECEIVED: Final = _counter("points.received", "{point}", "Logged points that came")
RECORDS_RECEIVED: Final = _counter("records.received", "{record}", "Records that came")
POINTS_REJECTED: Final = _counter("points.rejected", "{point}", "Points refused for ever")
RECORDS_REJECTED: Final = _counter("records.rejected", "{record}", "Records refused for ever")
DUPLICATES: Final = _counter("duplicates", "{item}", "Data points and records that a backend had already")
POINTS_DELIVERED: Final = _counter("points.delivered", "{point}", "Points a backend has")
RECORDS_DELIVERED: Final = _counter("records.delivered", "{record}", "Records a backend has")
POINTS_DROPPED: Final = _counter("points.dropped", "{point}", "Points that a backend refused")
RECORDS_DROPPED: Final = _counter("records.dropped", "{record}", "Records that a backend refused")
QUEUE_POINTS: Final = _level("queue.points", "{point}", "Points that wait for a backend")
QUEUE_RECORDS: Final = _level("queue.records", "{record}", "Records that wait for a backend")
SPOOL_SIZE: Final = _level("spool.size", "By", "Bytes of a backend's spool")
SPOOL_LIMIT: Final = _level("spool.limit", "By", "Bytes that a backend's spool may have")
RUNS: Final = _level("runs", "{run}", "Runs that are open, have ended, or fell silent")
REQUESTS_ACTIVE: Final = _level("requests.active", "{request}", "Requests in hand")


def histogram(meter: Meter, instrument: Instrument) -> Histogram:
    """A histogram."""
    return meter.create_histogram(
        instrument.name,
        instrument.unit,
        instrument.meaning,
        explicit_bucket_boundaries_advisory=instrument.bounds,
    )
