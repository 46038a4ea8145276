"""Requests made of parts of a request: what one backend is to get of one run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint

from tracelet_otel import semconv
from tracelet_otel.gateway.validation import Element, Range

Chosen = tuple[Element, tuple[Range, ...]]
"""An element and the parts of it that are wanted; of one without a number all of it."""


def is_whole(chosen: Chosen) -> bool:
    """Whether nothing of the element is left out."""
    element, parts = chosen
    return element.first is None or parts == ((element.first, element.first + element.points),)


def count_points(chosen: Iterable[Chosen]) -> int:
    """The logged points in some elements."""
    return sum(
        element.points if element.first is None else sum(end - start for start, end in parts)
        for element, parts in chosen
    )


def partial_metrics(
    request: ExportMetricsServiceRequest, chosen: Sequence[Chosen]
) -> ExportMetricsServiceRequest:
    """The chosen data points, with what is around them, as a request of their own."""
    piece = ExportMetricsServiceRequest()
    resources: dict[int, Any] = {}
    scopes: dict[tuple[int, ...], Any] = {}
    metrics: dict[tuple[int, ...], Any] = {}
    for element, parts in chosen:
        resource, scope, metric, _ = element.place
        data_points = metrics.get(element.place[:3])
        if data_points is None:
            source = request.resource_metrics[resource]
            if resource not in resources:
                made = resources[resource] = piece.resource_metrics.add(schema_url=source.schema_url)
                made.resource.CopyFrom(source.resource)
            inner = source.scope_metrics[scope]
            if element.place[:2] not in scopes:
                made = resources[resource].scope_metrics.add(schema_url=inner.schema_url)
                made.scope.CopyFrom(inner.scope)
                scopes[element.place[:2]] = made
            data_points = _copy_metric(inner.metrics[metric], scopes[element.place[:2]].metrics.add())
            metrics[element.place[:3]] = data_points
        if is_whole((element, parts)):
            data_points.add().CopyFrom(element.message)
        else:
            for part in parts:
                _cut(element, part, data_points.add())
    return piece


def _copy_metric(source: Metric, target: Metric) -> Any:
    """Copies all but the data points; where these go."""
    target.name, target.description, target.unit = source.name, source.description, source.unit
    target.metadata.extend(source.metadata)
    kind = source.WhichOneof("data")
    assert kind is not None
    data, copied = getattr(source, kind), getattr(target, kind)
    copied.SetInParent()
    if kind in ("sum", "histogram", "exponential_histogram"):
        copied.aggregation_temporality = data.aggregation_temporality
    if kind == "sum":
        copied.is_monotonic = data.is_monotonic
    return copied.data_points


def _cut(element: Element, part: Range, target: NumberDataPoint) -> None:
    """A data point with some of the exemplars only; the first of them says its number."""
    assert element.first is not None
    target.CopyFrom(element.message)
    del target.exemplars[part[1] - element.first :]
    del target.exemplars[: part[0] - element.first]
    filtered = target.exemplars[0].filtered_attributes
    others = [one for one in filtered if one.key != semconv.SEQUENCE]
    others.append(KeyValue(key=semconv.SEQUENCE, value=AnyValue(int_value=part[0])))
    del filtered[:]
    filtered.extend(others)


def partial_logs(request: ExportLogsServiceRequest, chosen: Sequence[Chosen]) -> ExportLogsServiceRequest:
    """The chosen records as a request of their own."""
    piece = ExportLogsServiceRequest()
    resources: dict[int, Any] = {}
    scopes: dict[tuple[int, ...], Any] = {}
    for element, _ in chosen:
        resource, scope, _ = element.place
        if element.place[:2] not in scopes:
            source = request.resource_logs[resource]
            if resource not in resources:
                made = resources[resource] = piece.resource_logs.add(schema_url=source.schema_url)
                made.resource.CopyFrom(source.resource)
            inner = source.scope_logs[scope]
            made = resources[resource].scope_logs.add(schema_url=inner.schema_url)
            made.scope.CopyFrom(inner.scope)
            scopes[element.place[:2]] = made
        scopes[element.place[:2]].log_records.add().CopyFrom(element.message)
    return piece
