"""Everything in an OTLP request, whichever resource and scope it is under."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric


def metrics(request: ExportMetricsServiceRequest) -> Iterator[Metric]:
    """Every metric, in order."""
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            yield from scope.metrics


def data_points(metric: Metric) -> Any:
    """The data points of a metric, of whichever kind it is; none if it has no data."""
    kind = metric.WhichOneof("data")
    return getattr(metric, kind).data_points if kind else ()


def log_records(request: ExportLogsServiceRequest) -> Iterator[LogRecord]:
    """Every record, in order."""
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            yield from scope.log_records
