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
    part = ExportMetricsServiceRequest()
    scopes = _copy_scopes(request.resource_metrics, part.resource_metrics, "scope_metrics", chosen)
    metrics: dict[tuple[int, ...], Any] = {}
    for element, ranges in chosen:
        place = element.place[:3]
        if place not in metrics:
            source, target = scopes[place[:2]]
            metrics[place] = _copy_metric(source.metrics[place[2]], target.metrics.add())
        if is_whole((element, ranges)):
            metrics[place].add().CopyFrom(element.message)
        else:
            for one in ranges:
                _cut(element, one, metrics[place].add())
    return part


def partial_logs(request: ExportLogsServiceRequest, chosen: Sequence[Chosen]) -> ExportLogsServiceRequest:
    """The chosen records as a request of their own."""
    part = ExportLogsServiceRequest()
    scopes = _copy_scopes(request.resource_logs, part.resource_logs, "scope_logs", chosen)
    for element, _ in chosen:
        scopes[element.place[:2]][1].log_records.add().CopyFrom(element.message)
    return part


def _copy_scopes(
    sources: Any, targets: Any, name: str, chosen: Sequence[Chosen]
) -> dict[tuple[int, ...], tuple[Any, Any]]:
    """Copies the resources and scopes around some elements, without their content.

    Returns each scope and its copy, by the place. ``name`` is that of the field with a resource's scopes.
    """
    scopes: dict[tuple[int, ...], tuple[Any, Any]] = {}
    resources: dict[int, Any] = {}
    for place in dict.fromkeys(element.place[:2] for element, _ in chosen):
        source = sources[place[0]]
        if place[0] not in resources:
            resources[place[0]] = targets.add(schema_url=source.schema_url, resource=source.resource)
        scope = getattr(source, name)[place[1]]
        copies = getattr(resources[place[0]], name)
        scopes[place] = scope, copies.add(schema_url=scope.schema_url, scope=scope.scope)
    return scopes


def _copy_metric(source: Metric, target: Metric) -> Any:
    """Copies all but the data points; where these go."""
    target.name, target.description, target.unit = source.name, source.description, source.unit
    target.metadata.extend(source.metadata)
    kind = source.WhichOneof("data")
    assert kind is not None
    copied = getattr(target, kind)
    copied.SetInParent()
    for field, value in getattr(source, kind).ListFields():
        if field.name != "data_points":
            setattr(copied, field.name, value)
    return copied.data_points


def _cut(element: Element, part: Range, target: NumberDataPoint) -> None:
    """A data point with some of the exemplars only; the first of them says its number."""
    assert element.first is not None
    target.CopyFrom(element.message)
    del target.exemplars[part[1] - element.first :]
    del target.exemplars[: part[0] - element.first]
    filtered = target.exemplars[0].filtered_attributes
    others = [one for one in filtered if one.key != semconv.SEQUENCE]
    del filtered[:]
    filtered.extend([*others, KeyValue(key=semconv.SEQUENCE, value=AnyValue(int_value=part[0]))])
