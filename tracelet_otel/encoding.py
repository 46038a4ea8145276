"""The SDK's data as OTLP requests, cut into pieces that every receiver takes.

The points of a run are encoded here, directly: the SDK's own encoder costs several times as much an
exemplar for the same bytes. Everything else goes through that encoder.

Source of the message layout: opentelemetry-proto 1.x, ``metrics.proto``, ``logs.proto``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar as EncodedExemplar
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint as EncodedPoint
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)

from tracelet_otel import semconv
from tracelet_otel.run_resources import RunResources

MAX_EXEMPLARS = 4_000
"""Exemplars a data point on the wire; the design allows 4,096."""
MAX_POINTS_PER_REQUEST = 4_000
"""Exemplars a request, about 300 KiB: whole requests of trackers that take 1,000 points each, and a second
at most between two signs of progress."""
MAX_LOG_BYTES_PER_REQUEST = 2 * 1024 * 1024

_SCALARS = (semconv.SCALAR, semconv.SCALAR_NONFINITE)
_Piece = tuple[Metric, NumberDataPoint]
"""A data point with the metric that it is of."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One request's worth of metrics, as the SDK's objects."""

    data: MetricsData
    points: int
    news: bool
    """Whether it holds more than live values of series that have no new points."""


def split(data: MetricsData, runs: RunResources | None = None) -> Iterator[Chunk]:
    """Cuts collected metrics into requests of at most :data:`MAX_POINTS_PER_REQUEST` exemplars.

    The order of a series is the order of its pieces. The first request also holds all other metrics; the
    live values of the series that have no new points come last, without those of runs that have ended.

    Args:
        data: of one resource.
        runs: the resource of each run, for points of several; None leaves them under ``data``'s own.
    """
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            others: list[Metric] = []
            news: list[_Piece] = []
            quiet: list[_Piece] = []
            for metric in scope.metrics:
                if metric.name not in _SCALARS:
                    others.append(metric)
                    continue
                for point in metric.data.data_points:
                    assert isinstance(point, NumberDataPoint)
                    if not point.exemplars:
                        quiet.append((metric, point))
                    for start in range(0, len(point.exemplars), MAX_EXEMPLARS):
                        part = _numbered(point.exemplars, start)
                        news.append((metric, _with_exemplars(metric, point, part)))
            for described, pieces in _by_run(news, resource, runs):
                for metrics, points in _pack(others, pieces):
                    yield Chunk(_one_scope(described, scope, metrics), points, True)
                others = []
            for described, pieces in _by_run(quiet, resource, runs, live=True):
                for start in range(0, len(pieces), MAX_POINTS_PER_REQUEST):
                    for metrics, _ in _pack([], pieces[start : start + MAX_POINTS_PER_REQUEST]):
                        yield Chunk(_one_scope(described, scope, metrics), 0, False)


def _one_scope(resource: ResourceMetrics, scope: ScopeMetrics, metrics: list[Metric]) -> MetricsData:
    return MetricsData([replace(resource, scope_metrics=[replace(scope, metrics=metrics)])])


def _by_run(
    pieces: list[_Piece], resource: ResourceMetrics, runs: RunResources | None, *, live: bool = False
) -> list[tuple[ResourceMetrics, list[_Piece]]]:
    """The pieces by the resource that they go out under; the default run's first, even if it has none."""
    if runs is None:
        return [(resource, pieces)]
    groups: dict[object, list[_Piece]] = {None: []}
    if runs.is_single and not live:
        groups[None] = pieces
    else:
        for piece in pieces:
            run_id = (piece[1].attributes or {}).get(semconv.RUN_ID)
            if live and not runs.goes_on(run_id):
                continue
            is_default = runs.of(run_id) is runs.default
            groups.setdefault(None if is_default else run_id, []).append(piece)
    return [(replace(resource, resource=runs.of(run_id)), members) for run_id, members in groups.items()]


def _numbered(exemplars: Sequence[Exemplar], start: int) -> Sequence[Exemplar]:
    """The exemplars of one data point on the wire; the first one says its number in the series."""
    part = exemplars[start : start + MAX_EXEMPLARS]
    number = (exemplars[0].filtered_attributes or {}).get(semconv.SEQUENCE)
    if start and isinstance(number, int):
        attributes = {**(part[0].filtered_attributes or {}), semconv.SEQUENCE: number + start}
        part = [replace(part[0], filtered_attributes=attributes), *part[1:]]
    return part


def _with_exemplars(metric: Metric, point: NumberDataPoint, exemplars: Sequence[Exemplar]) -> NumberDataPoint:
    # The live value is that of the newest exemplar, so that a float32 shows its short form there too.
    value = exemplars[-1].value if metric.name == semconv.SCALAR else point.value
    return replace(point, exemplars=exemplars, value=value)


def _pack(whole: list[Metric], pieces: list[_Piece]) -> Iterator[tuple[list[Metric], int]]:
    metrics: list[Metric] = whole
    members: dict[str, list[NumberDataPoint]] = {}
    sources: dict[str, Metric] = {}
    count = 0

    def finish() -> list[Metric]:
        return metrics + [
            replace(sources[name], data=replace(sources[name].data, data_points=points))
            for name, points in members.items()
        ]

    for metric, point in pieces:
        if count and count + len(point.exemplars) > MAX_POINTS_PER_REQUEST:
            yield finish(), count
            metrics, members, count = [], {}, 0
        sources[metric.name] = metric
        members.setdefault(metric.name, []).append(point)
        count += len(point.exemplars)
    if metrics or members:
        yield finish(), count


def encode(data: MetricsData) -> ExportMetricsServiceRequest:
    """The OTLP request of one chunk."""
    skeleton = MetricsData(
        [
            replace(
                resource,
                scope_metrics=[
                    replace(scope, metrics=[_without_points(metric) for metric in scope.metrics])
                    for scope in resource.scope_metrics
                ],
            )
            for resource in data.resource_metrics
        ]
    )
    request = encode_metrics(skeleton)
    for resource, encoded_resource in zip(data.resource_metrics, request.resource_metrics, strict=True):
        for scope, encoded_scope in zip(resource.scope_metrics, encoded_resource.scope_metrics, strict=True):
            for metric, encoded in zip(scope.metrics, encoded_scope.metrics, strict=True):
                if metric.name in _SCALARS:
                    points = (
                        encoded.gauge.data_points
                        if metric.name == semconv.SCALAR
                        else encoded.sum.data_points
                    )
                    for point in metric.data.data_points:
                        assert isinstance(point, NumberDataPoint)
                        _encode_point(points.add(), point)
    return request


def only_ours(data: MetricsData) -> MetricsData:
    """``data`` without the metrics of other instruments."""
    return MetricsData(
        [
            replace(
                resource,
                scope_metrics=[
                    replace(scope, metrics=[metric for metric in scope.metrics if metric.name in _SCALARS])
                    for scope in resource.scope_metrics
                ],
            )
            for resource in data.resource_metrics
        ]
    )


def _without_points(metric: Metric) -> Metric:
    if metric.name not in _SCALARS:
        return metric
    return replace(metric, data=replace(metric.data, data_points=[]))


def _encode_point(encoded: EncodedPoint, point: NumberDataPoint) -> None:
    encoded.time_unix_nano = point.time_unix_nano
    if point.start_time_unix_nano:
        encoded.start_time_unix_nano = point.start_time_unix_nano
    if isinstance(point.value, int):
        encoded.as_int = point.value
    else:
        encoded.as_double = point.value
    for key, value in (point.attributes or {}).items():
        text = AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=str(value))
        encoded.attributes.append(KeyValue(key=key, value=text))
    encoded.MergeFromString(_encode_exemplars(point.exemplars))


def _encode_exemplars(exemplars: Sequence[Exemplar]) -> bytes:
    """The exemplars as an encoded data point that holds nothing else.

    Protocol buffers that follow each other are merged where they are read. One message that is filled and
    encoded again for each exemplar takes half the time that a message for each does.
    """
    message = EncodedPoint()
    item = message.exemplars.add()
    step = item.filtered_attributes.add(key=semconv.STEP).value
    ids: tuple[int | None, int | None] = (None, None)
    parts: list[bytes] = []
    for exemplar in exemplars:
        value, time_unix_nano = exemplar.value, exemplar.time_unix_nano
        attributes = exemplar.filtered_attributes or {}
        if len(attributes) != 1 or semconv.STEP not in attributes:  # the first one, and other people's
            other = _encode_exemplar(exemplar)
            parts.append(EncodedPoint(exemplars=[other]).SerializeToString())
            continue
        item.as_double = value
        item.time_unix_nano = time_unix_nano
        step.int_value = attributes[semconv.STEP]  # pyright: ignore[reportAttributeAccessIssue]
        if ids != (exemplar.trace_id, exemplar.span_id):
            ids = trace_id, span_id = exemplar.trace_id, exemplar.span_id
            item.trace_id = trace_id.to_bytes(16, "big") if trace_id and span_id else b""
            item.span_id = span_id.to_bytes(8, "big") if trace_id and span_id else b""
        parts.append(message.SerializeToString())
    return b"".join(parts)


def _encode_exemplar(exemplar: Exemplar) -> EncodedExemplar:
    encoded = EncodedExemplar(as_double=exemplar.value, time_unix_nano=exemplar.time_unix_nano)
    for name, value in (exemplar.filtered_attributes or {}).items():
        if isinstance(value, int):  # ours are
            encoded.filtered_attributes.add(key=name, value=AnyValue(int_value=value))
    if exemplar.trace_id and exemplar.span_id:
        encoded.trace_id = exemplar.trace_id.to_bytes(16, "big")
        encoded.span_id = exemplar.span_id.to_bytes(8, "big")
    return encoded


def split_logs(records: Sequence[ReadableLogRecord]) -> Iterator[list[ReadableLogRecord]]:
    """Cuts records into requests of about :data:`MAX_LOG_BYTES_PER_REQUEST`, in order."""
    part: list[ReadableLogRecord] = []
    size = 0
    for record in records:
        weight = 512 + payload_size(record)
        if part and size + weight > MAX_LOG_BYTES_PER_REQUEST:
            yield part
            part, size = [], 0
        part.append(record)
        size += weight
    if part:
        yield part


def payload_size(record: ReadableLogRecord) -> int:
    """Bytes of the record's payload."""
    body = record.log_record.body
    return len(body) if isinstance(body, bytes) else 0


def encode_records(records: Sequence[ReadableLogRecord]) -> ExportLogsServiceRequest:
    """The OTLP request of some records; a payload's size and SHA-256 become attributes."""
    request = encode_logs(records)
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                if record.body.HasField("bytes_value"):
                    payload = record.body.bytes_value
                    record.attributes.append(
                        KeyValue(key=semconv.PAYLOAD_SIZE, value=AnyValue(int_value=len(payload)))
                    )
                    digest = hashlib.sha256(payload).hexdigest()
                    record.attributes.append(
                        KeyValue(key=semconv.PAYLOAD_SHA256, value=AnyValue(string_value=digest))
                    )
    return request
