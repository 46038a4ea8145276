"""Requests made of parts of a request: what one backend is to get of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint

from tracelet_otel import semconv
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.gateway.validation import Element, Range, Validated

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


def by_run(
    validated: Validated, chosen: list[Chosen], make: Callable[[Sequence[Chosen], bool], Batch]
) -> list[tuple[list[Chosen], Batch]]:
    """A batch for each run, so that a bad run costs no other. ``make`` is told whether it gets everything."""
    runs: dict[str, list[Chosen]] = {}
    for one in chosen:
        runs.setdefault(one[0].run_id, []).append(one)
    is_all = (
        len(runs) == 1
        and not validated.rejected
        and not validated.repeated
        and len(chosen) == len(validated.elements)
        and all(map(is_whole, chosen))
    )
    return [(members, make(members, is_all)) for members in runs.values()]


def partial_metrics(
    request: ExportMetricsServiceRequest, chosen: Sequence[Chosen]
) -> ExportMetricsServiceRequest:
    """The chosen data points, with what is around them, as a request of their own."""
    part = ExportMetricsServiceRequest()
    scopes = _Scopes(request.resource_metrics, part.resource_metrics, "scope_metrics")
    metrics: dict[tuple[int, ...], Any] = {}
    for element, ranges in chosen:
        place = element.place[:3]
        if place not in metrics:
            source, target = scopes.get(place)
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
    scopes = _Scopes(request.resource_logs, part.resource_logs, "scope_logs")
    for element, _ in chosen:
        scopes.get(element.place)[1].log_records.add().CopyFrom(element.message)
    return part


class _Scopes:
    """Copies the resources and scopes of a request, each when it is first needed, without their content."""

    def __init__(self, sources: Any, targets: Any, name: str) -> None:
        self._sources = sources
        self._targets = targets
        self._name = name
        """The name of the field with a resource's scopes."""
        self._resources: dict[int, Any] = {}
        self._scopes: dict[tuple[int, ...], Any] = {}

    def get(self, place: tuple[int, ...]) -> tuple[Any, Any]:
        """The scope at this place of the request, and its copy."""
        number, scope = place[:2]
        source = self._sources[number]
        if number not in self._resources:
            resource = self._resources[number] = self._targets.add(schema_url=source.schema_url)
            resource.resource.CopyFrom(source.resource)
        inner = getattr(source, self._name)[scope]
        if place[:2] not in self._scopes:
            made = getattr(self._resources[number], self._name).add(schema_url=inner.schema_url)
            made.scope.CopyFrom(inner.scope)
            self._scopes[place[:2]] = made
        return inner, self._scopes[place[:2]]


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
