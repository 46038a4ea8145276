"""Cuts OTLP requests into smaller ones, and counts what is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

from tracelet_otel import semconv
from tracelet_otel.otlp import traversal

Request = TypeVar("Request", ExportMetricsServiceRequest, ExportLogsServiceRequest)


def halve(request: Request) -> tuple[Request, Request] | None:
    """The request as two, in order; None if there is only one thing in it.

    A data point of ours is cut between its exemplars, each part with its own sequence number and live value.
    """
    left, right = type(request)(), type(request)()
    left.CopyFrom(request)
    right.CopyFrom(request)
    found = _first_choice(left)
    if found is None:
        return None
    first, point = found
    middle = len(first) // 2
    if point is not None:
        _number(first, middle)
        if point.WhichOneof("value") == "as_double":
            point.as_double = first[middle - 1].as_double
    second, _ = cast("tuple[Any, Any]", _first_choice(right))
    if point is not None:
        second[middle].CopyFrom(first[middle])
    del first[middle:]
    del second[:middle]
    return left, right


def _first_choice(
    request: ExportMetricsServiceRequest | ExportLogsServiceRequest,
) -> tuple[Any, NumberDataPoint | None] | None:
    """The first list on the way down with more than one member; with its data point if that is exemplars."""
    message: Any = request
    names = ["resource_logs", "scope_logs", "log_records"]
    if isinstance(request, ExportMetricsServiceRequest):
        names = ["resource_metrics", "scope_metrics", "metrics"]
    for name in names:
        members = getattr(message, name)
        if len(members) != 1:
            return (members, None) if members else None
        message = members[0]
    if isinstance(message, LogRecord):
        return None
    points = traversal.data_points(message)
    if len(points) != 1:
        return (points, None) if points else None
    point: Any = points[0]
    ours = message.name in semconv.SCALARS and isinstance(point, NumberDataPoint)
    return (point.exemplars, point) if ours and len(point.exemplars) > 1 else None


def _number(exemplars: Any, middle: int) -> None:
    """Gives the exemplar at ``middle`` the sequence number that it has as the first of a data point."""
    for item in exemplars[0].filtered_attributes:
        if item.key == semconv.SEQUENCE:
            number = item.value.int_value + middle
            exemplars[middle].filtered_attributes.add(key=semconv.SEQUENCE).value.int_value = number


def pack(
    request: ExportLogsServiceRequest, most_bytes: int, weigh: Callable[[LogRecord], int]
) -> Iterator[ExportLogsServiceRequest]:
    """The records in requests of at most ``most_bytes``, in order; one that is heavier has its own.

    Args:
        request: any number of records.
        most_bytes: of a request.
        weigh: bytes that a record takes.
    """
    part, size = ExportLogsServiceRequest(), 0
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            into = None
            for record in scope.log_records:
                weight = weigh(record)
                if size and size + weight > most_bytes:
                    yield part
                    part, size, into = ExportLogsServiceRequest(), 0, None
                if into is None:
                    into = _like(part, resource, scope)
                into.log_records.add().CopyFrom(record)
                size += weight
    if size:
        yield part


def _like(part: ExportLogsServiceRequest, resource: Any, scope: Any) -> Any:
    new = part.resource_logs.add(schema_url=resource.schema_url, resource=resource.resource)
    return new.scope_logs.add(schema_url=scope.schema_url, scope=scope.scope)


def logged_points(request: ExportMetricsServiceRequest) -> list[int]:
    """For each data point, in order, how many logged points it holds."""
    return [
        len(point.exemplars) if metric.name in semconv.SCALARS else 0
        for metric in traversal.metrics(request)
        for point in traversal.data_points(metric)
    ]


def is_counted(record: LogRecord) -> bool:
    """Whether a record counts: it was logged through us, and does not only describe a run."""
    name = record.event_name
    prefix = semconv.EVENT_PREFIX
    return name.startswith(prefix) and name.removeprefix(prefix) not in semconv.ATTENDANTS
