"""Any OTLP request comes back from a line of OTLP JSON and from a spool, and so does who sent it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, cast

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Exemplar,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
    Summary,
    SummaryDataPoint,
)

from tracelet_otel import semconv
from tracelet_otel.delivery.destination import Batch, Keys
from tracelet_otel.delivery.spool.json_lines import JsonLines
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.otlp.json import logs_line, metrics_line, parse_line

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=6) | st.sampled_from(
    ["NaN", ',"tracelet.source":"x"}', "exemplars", semconv.STEP, "\n"]
)


def _nested(inner: st.SearchStrategy[AnyValue]) -> st.SearchStrategy[AnyValue]:
    lists = st.lists(inner, max_size=3)
    pairs = st.lists(st.builds(KeyValue, key=TEXT, value=inner), max_size=3)
    return lists.map(lambda values: AnyValue(array_value=ArrayValue(values=values))) | pairs.map(
        lambda values: AnyValue(kvlist_value=KeyValueList(values=values))
    )


VALUES: st.SearchStrategy[AnyValue] = st.recursive(
    st.one_of(
        st.builds(AnyValue),
        st.builds(AnyValue, string_value=TEXT),
        st.builds(AnyValue, int_value=INT64),
        st.builds(AnyValue, double_value=st.floats()),
        st.builds(AnyValue, bool_value=st.booleans()),
        st.builds(AnyValue, bytes_value=st.binary(max_size=5)),
    ),
    _nested,
    max_leaves=6,
)
ATTRIBUTES = st.lists(st.builds(KeyValue, key=TEXT | st.just(semconv.STEP), value=VALUES), max_size=3)
TRACE_IDS = st.just(b"") | st.binary(min_size=16, max_size=16)
SPAN_IDS = st.just(b"") | st.binary(min_size=8, max_size=8)
IDS: dict[str, Any] = {"trace_id": TRACE_IDS, "span_id": SPAN_IDS}

_EXEMPLAR: dict[str, Any] = {"time_unix_nano": UINT64, "filtered_attributes": ATTRIBUTES, **IDS}
EXEMPLARS = st.lists(
    st.builds(Exemplar, as_double=st.floats(), **_EXEMPLAR) | st.builds(Exemplar, as_int=INT64, **_EXEMPLAR),
    max_size=12,
)
_POINT: dict[str, Any] = {"attributes": ATTRIBUTES, "start_time_unix_nano": UINT64, "time_unix_nano": UINT64}
NUMBERS = st.lists(
    st.builds(NumberDataPoint, as_double=st.floats(), exemplars=EXEMPLARS, **_POINT)
    | st.builds(NumberDataPoint, as_int=INT64, exemplars=EXEMPLARS, **_POINT),
    max_size=3,
)
_BUCKETS = st.lists(UINT64, max_size=3)
_DISTRIBUTION: dict[str, Any] = {
    **_POINT,
    "count": UINT64,
    "sum": st.none() | st.floats(),
    "min": st.none() | st.floats(),
    "exemplars": EXEMPLARS,
}
HISTOGRAMS = st.builds(
    HistogramDataPoint,
    bucket_counts=_BUCKETS,
    explicit_bounds=st.lists(st.floats(), max_size=3),
    **_DISTRIBUTION,
)
EXPONENTIAL = st.builds(
    ExponentialHistogramDataPoint, scale=st.integers(-10, 20), zero_count=UINT64, **_DISTRIBUTION
)
NAMES = TEXT | st.sampled_from([semconv.SCALAR, semconv.SCALAR_NONFINITE])
_TEMPORALITY = st.integers(0, 2)
METRICS = st.one_of(
    st.builds(Metric, name=NAMES, gauge=st.builds(Gauge, data_points=NUMBERS)),
    st.builds(
        Metric, name=NAMES, sum=st.builds(Sum, data_points=NUMBERS, aggregation_temporality=_TEMPORALITY)
    ),
    st.builds(
        Metric, name=NAMES, histogram=st.builds(Histogram, data_points=st.lists(HISTOGRAMS, max_size=2))
    ),
    st.builds(
        Metric,
        exponential_histogram=st.builds(ExponentialHistogram, data_points=st.lists(EXPONENTIAL, max_size=2)),
    ),
    st.builds(
        Metric,
        summary=st.builds(
            Summary, data_points=st.lists(st.builds(SummaryDataPoint, sum=st.floats(), **_POINT), max_size=2)
        ),
    ),
    st.builds(Metric, name=NAMES),
)
RECORDS = st.builds(
    LogRecord,
    time_unix_nano=UINT64,
    severity_number=st.integers(0, 24),
    event_name=TEXT | st.just("tracelet.text"),
    body=st.none() | VALUES,
    attributes=ATTRIBUTES,
    flags=st.integers(0, 2**32 - 1),
    **IDS,
)


def _requests(kind: Any, resource: Any, scope: Any, members: dict[str, Any]) -> st.SearchStrategy[Any]:
    scopes = st.lists(st.builds(scope, **members), max_size=2)
    name = "scope_metrics" if "metrics" in members else "scope_logs"
    resources = st.lists(st.builds(resource, **{name: scopes}), min_size=1, max_size=2)
    return st.builds(kind, **{name.replace("scope", "resource"): resources})


METRICS_REQUESTS: st.SearchStrategy[ExportMetricsServiceRequest] = _requests(
    ExportMetricsServiceRequest, ResourceMetrics, ScopeMetrics, {"metrics": st.lists(METRICS, max_size=2)}
)
LOGS_REQUESTS: st.SearchStrategy[ExportLogsServiceRequest] = _requests(
    ExportLogsServiceRequest, ResourceLogs, ScopeLogs, {"log_records": st.lists(RECORDS, max_size=3)}
)

RANGES = st.lists(st.tuples(st.integers(0, 2**60), st.integers(0, 2**60)), max_size=2).map(tuple)
KEYS = st.none() | st.lists(st.tuples(st.binary(max_size=12), RANGES), max_size=3).map(tuple)


def content(request: Any) -> Any:
    """What it says, in a form in which NaN is NaN, and an attribute with an empty value one with none."""
    return _without_empty(json_format.MessageToDict(request, always_print_fields_with_no_presence=True))


def _without_empty(item: Any) -> Any:
    if isinstance(item, list):
        return [_without_empty(member) for member in cast("list[Any]", item)]
    if isinstance(item, dict):
        members = cast("dict[str, Any]", item).items()
        return {name: _without_empty(value) for name, value in members if (name, value) != ("value", {})}
    return item


@settings(max_examples=60)
@given(METRICS_REQUESTS)
def test_metrics_come_back(request: ExportMetricsServiceRequest) -> None:
    before = content(request)
    line = metrics_line(ExportMetricsServiceRequest.FromString(request.SerializeToString()))
    assert "\n" not in line
    assert content(parse_line(line)) == before


@given(LOGS_REQUESTS)
def test_logs_come_back(request: ExportLogsServiceRequest) -> None:
    before = content(request)
    line = logs_line(request)
    assert "\n" not in line
    assert content(parse_line(line)) == before


@settings(max_examples=40)
@given(METRICS_REQUESTS | LOGS_REQUESTS, TEXT, TEXT, KEYS)
def test_a_spool_says_the_same_and_who_sent_it(
    tmp_path: Path, request_: Any, source: str, run: str, keys: Keys | None
) -> None:
    data = request_.SerializeToString()
    is_metrics = isinstance(request_, ExportMetricsServiceRequest)
    batch = Batch(
        metrics=data if is_metrics else None,
        logs=None if is_metrics else data,
        points=3,
        size=len(data),
        source=source,
        run=run,
        keys=keys,
    )
    folder = tmp_path / uuid.uuid4().hex
    Spool(folder, max_bytes=10**9).append(batch)
    assert list(read(folder)) == [batch] * bool(data)
    lines = JsonLines(folder / "lines", max_bytes=10**9)
    lines.append(batch)
    (again,) = read(lines.folder)
    held = again.metrics if is_metrics else again.logs
    assert isinstance(held, bytes)
    assert content(type(request_).FromString(held)) == content(request_)
