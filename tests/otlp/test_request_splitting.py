"""Requests in smaller ones: nothing is lost, nothing is there twice, the order stays."""

from __future__ import annotations

import math
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.otlp.test_encoding import collect, pipeline
from tracelet_otel.otlp.decoding import decode_series, parse_metrics
from tracelet_otel.otlp.request_splitting import halve, logged_points, pack
from tracelet_otel.otlp.traversal import log_records

Request = TypeVar("Request", ExportMetricsServiceRequest, ExportLogsServiceRequest)


def pieces(request: Request, most_bytes: int) -> list[Request]:
    """The request cut until every part is small enough or one thing."""
    halves = halve(request) if request.ByteSize() > most_bytes else None
    return [request] if halves is None else [item for half in halves for item in pieces(half, most_bytes)]


@given(
    logged=st.lists(st.tuples(st.sampled_from("abc"), st.floats(), st.integers(0, 99)), max_size=60),
    most_bytes=st.integers(0, 2_000),
)
def test_points_that_are_cut_come_out_whole(logged: list[tuple[str, float, int]], most_bytes: int) -> None:
    pipe = pipeline()
    for tag, value, step in logged:
        pipe.recorder.scalar((tag, value, step, 10**18, False, None))
    pipe.meter_provider.get_meter("theirs").create_histogram("latency").record(3.0)
    for whole in map(parse_metrics, collect(pipe)):
        parts = pieces(whole, most_bytes)
        assert all(part.ByteSize() <= most_bytes or halve(part) is None for part in parts)
        assert sum(map(sum, map(logged_points, parts))) == sum(logged_points(whole))
        before = {(s.tag, _kind(s.points[0].value)): s for s in decode_series(whole)}
        after: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for part in parts:
            for series in decode_series(part):
                key = series.tag, _kind(series.points[0].value)
                known = after.setdefault(key, [])
                assert series.sequence == (before[key].sequence or 0) + len(known)
                known.extend((point.step, point.value) for point in series.points)
        for key, series in before.items():
            assert list(map(repr, after[key])) == [repr((p.step, p.value)) for p in series.points]
        # A data point of others that were there twice would count twice.
        assert sum(map(_theirs, parts)) == _theirs(whole)


def _theirs(request: ExportMetricsServiceRequest) -> int:
    return sum(
        len(metric.histogram.data_points)
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


def _kind(value: float) -> str:
    return "finite" if math.isfinite(value) else repr(value)


@given(
    sizes=st.lists(st.lists(st.lists(st.integers(0, 50), max_size=5), max_size=3), max_size=3),
    most_bytes=st.integers(1, 300),
)
def test_records_that_are_cut_come_out_whole(sizes: list[list[list[int]]], most_bytes: int) -> None:
    request = ExportLogsServiceRequest()
    for number, resource in enumerate(sizes):
        into = request.resource_logs.add()
        into.resource.attributes.add(key="n").value.int_value = number
        for scope in resource:
            records = into.scope_logs.add()
            for size in scope:
                records.log_records.add().body.bytes_value = bytes(size)
    whole = [record.SerializeToString() for record in log_records(request)]
    packed = list(pack(request, most_bytes, lambda record: record.ByteSize()))
    for parts in (pieces(request, most_bytes), packed):
        assert [item.SerializeToString() for part in parts for item in log_records(part)] == whole
    for part in packed:
        weights = [record.ByteSize() for record in log_records(part)]
        assert sum(weights) <= most_bytes or len(weights) == 1
        for resource in part.resource_logs:
            assert resource.resource.attributes[0].key == "n"
