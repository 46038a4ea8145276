"""The SDK's data as OTLP requests.

The points of a run are encoded here, directly: the SDK's own encoder costs several times as much an
exemplar for the same bytes. Everything else goes through that encoder.

Source of the message layout: opentelemetry-proto 1.x, ``metrics.proto``, ``logs.proto``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar as EncodedExemplar
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint as EncodedPoint
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import Metric, MetricsData, NumberDataPoint

from tracelet_otel import semconv
from tracelet_otel.foundation import private
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp import traversal
from tracelet_otel.otlp.splitting import with_metrics


def encode(data: MetricsData) -> ExportMetricsServiceRequest:
    """The OTLP request of one chunk."""
    request = encode_metrics(with_metrics(data, _without_points))
    for resource, encoded_resource in zip(data.resource_metrics, request.resource_metrics, strict=True):
        for scope, encoded_scope in zip(resource.scope_metrics, encoded_resource.scope_metrics, strict=True):
            for metric, encoded in zip(scope.metrics, encoded_scope.metrics, strict=True):
                if metric.name in semconv.SCALARS:
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
    return with_metrics(data, lambda metric: metric if metric.name in semconv.SCALARS else None)


def _without_points(metric: Metric) -> Metric:
    if metric.name not in semconv.SCALARS:
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


def encode_records(records: Sequence[ReadableLogRecord]) -> ExportLogsServiceRequest:
    """The OTLP request of some records; a payload's size and SHA-256 become attributes."""
    encode_logs = private.LOG_ENCODER.get()
    if encode_logs is None:
        log_once(
            "log encoder", logging.ERROR, "records are lost: OpenTelemetry has no encoder for them any more"
        )
        return ExportLogsServiceRequest()
    request: ExportLogsServiceRequest = encode_logs(records)
    for record in traversal.log_records(request):
        if record.body.HasField("bytes_value"):
            payload = record.body.bytes_value
            record.attributes.add(key=semconv.PAYLOAD_SIZE).value.int_value = len(payload)
            digest = hashlib.sha256(payload).hexdigest()
            record.attributes.add(key=semconv.PAYLOAD_SHA256).value.string_value = digest
    return request
