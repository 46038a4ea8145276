"""Points are decoded as what the messages say, whether they are read as a table or one by one."""

from __future__ import annotations

import base64
import json
import math
import random
import struct
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, NumberDataPoint

from tracelet_otel import semconv
from tracelet_otel.otlp.decoding import decode_series, parse_metrics
from tracelet_otel.otlp.exemplars import spans
from tracelet_otel.otlp.json import metrics_line, parse_line
from tracelet_otel.otlp.records import Point

STEPS = (0, 1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**63 - 1, -1, -(2**63))
VALUES = (0.0, -0.0, 5e-324, 0.1, math.inf, -math.inf, math.nan, 1.7976931348623157e308)
TIMES = (0, 1, 2**63, 2**64 - 1, 1_700_000_000_123_456_789)


def exemplar(step: int | None, value: float, time: int, **others: Any) -> Exemplar:
    made = Exemplar(as_double=value, time_unix_nano=time, **others)
    if step is not None:
        made.filtered_attributes.add(key=semconv.STEP, value=AnyValue(int_value=step))
    return made


def encoded(exemplars: list[Exemplar], **fields: Any) -> bytes:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name=semconv.SCALAR)
    point = metric.gauge.data_points.add(**fields)
    for key in (semconv.TAG, semconv.RUN_ID):
        point.attributes.add(key=key, value=AnyValue(string_value="x"))
    point.exemplars.extend(exemplars)
    return request.SerializeToString()


def bits(points: list[Point]) -> list[tuple[int, bytes, int]]:
    assert all(type(point) is Point and type(point.step) is int for point in points)
    return [(point.step, struct.pack(">d", point.value), point.time_unix_nano) for point in points]


def said(exemplars: list[Exemplar]) -> list[tuple[int, bytes, int]]:
    """What the messages say, field by field."""
    found: list[tuple[int, bytes, int]] = []
    for one in exemplars:
        steps = [item.value.int_value for item in one.filtered_attributes if item.key == semconv.STEP]
        value = one.as_double if one.HasField("as_double") else float(one.as_int)
        found.append((steps[-1] if steps else 0, struct.pack(">d", value), one.time_unix_nano))
    return found


def test_every_mixture_is_decoded_as_it_is() -> None:
    for seed in range(300):
        chance = random.Random(seed)
        exemplars = mixture(chance)
        data = encoded(
            exemplars,
            start_time_unix_nano=chance.choice(TIMES),
            time_unix_nano=chance.choice(TIMES),
            as_double=chance.choice(VALUES),
            flags=chance.choice((0, 1)),
        )
        [series] = decode_series(parse_metrics(data))
        assert bits(series.points) == said(exemplars), seed


def test_every_mixture_comes_back_from_a_line() -> None:
    for seed in range(300):
        data = encoded(mixture(random.Random(seed)), time_unix_nano=seed)
        line = metrics_line(parse_metrics(data))
        again = parse_line(line)
        assert again is not None
        assert again.SerializeToString() == data, seed
        assert completed(json.loads(line)) == completed(json_format_of(data))


def json_format_of(data: bytes) -> Any:
    """What protobuf's own mapping says, with ids as OTLP has them."""
    content = json_format.MessageToDict(parse_metrics(data), use_integers_for_enums=True)
    for one in exemplars_of(content):
        for name in ("spanId", "traceId"):
            if name in one:
                one[name] = base64.b64decode(one[name]).hex()
    return content


def completed(content: Any) -> Any:
    """The same with the values that protobuf's mapping leaves out, as those that are read for them."""
    for one in exemplars_of(content):
        one.setdefault("timeUnixNano", "0")
        if "asInt" not in one:
            one.setdefault("asDouble", 0.0)
        for item in one.get("filteredAttributes", ()):
            item.setdefault("key", "")
    return content


def exemplars_of(content: Any) -> list[Any]:
    points = content["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"]
    return [one for point in points for one in point.get("exemplars", ())]


def mixture(chance: random.Random) -> list[Exemplar]:
    """Exemplars of many layouts, some of them often enough for a table."""
    exemplars: list[Exemplar] = []
    while len(exemplars) < chance.choice((1, 7, 8, 30, 300)):
        kind = chance.randrange(7)
        ids: dict[str, Any] = {"span_id": chance.randbytes(8), "trace_id": chance.randbytes(16)}
        start = chance.choice(STEPS)
        for number in range(chance.choice((1, 2, 9, 40))):
            step = start + number if abs(start) < 2**60 else start
            one = exemplar(step, chance.choice(VALUES), chance.choice(TIMES))
            if kind == 1:
                one.MergeFrom(Exemplar(**ids))
            elif kind == 2:
                one.filtered_attributes.add(key=semconv.SEQUENCE, value=AnyValue(int_value=step))
            elif kind == 3:
                one.as_int = chance.choice(STEPS)
            elif kind == 4:
                one.span_id = chance.randbytes(chance.randrange(9))
            elif kind == 5 and chance.random() < 0.2:
                del one.filtered_attributes[:]
            elif kind == 6 and chance.random() < 0.2:
                one.filtered_attributes[0].key = chance.choice(("tracelet.stfp", "x" * 200, ""))
            exemplars.append(one)
    return exemplars


def test_ours_are_read_as_tables() -> None:
    """Or the test above would test nothing."""
    choices: tuple[dict[str, Any], ...] = ({}, {"span_id": b"\xfe" * 8, "trace_id": b"\x01" * 16})
    for ids in choices:
        point = NumberDataPoint(
            exemplars=[exemplar(step, 0.5, 7, **ids) for step in range(100, 20_000)], time_unix_nano=3
        )
        found = list(spans(point))
        assert [span.length for span in found] == [28, 16_384 - 128, 20_000 - 16_384]
        assert [span.layout.step_bytes for span in found if span.layout] == [1, 2, 3]
        for span in found:
            assert span.points() == [(100 + span.first + row, 0.5, 7) for row in range(span.length)]
            if ids:
                assert set(span.ids()) == {(ids["span_id"], ids["trace_id"])}


def test_one_flipped_byte_is_decoded_as_what_it_says() -> None:
    for seed in range(200):
        check_a_flipped_byte(random.Random(seed))


def check_a_flipped_byte(chance: random.Random) -> None:
    data = bytearray(encoded([exemplar(step, 0.25, 2**60) for step in range(1000, 1100)]))
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    try:
        request = ExportMetricsServiceRequest.FromString(bytes(data))
    except Exception:
        return
    expected = [
        said(list(point.exemplars))
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == semconv.SCALAR
        for point in metric.gauge.data_points
        if point.exemplars and {item.key for item in point.attributes} >= {semconv.TAG, semconv.RUN_ID}
    ]
    found = [bits(series.points) for series in decode_series(request)]
    for one, other in zip(found, expected, strict=False):
        if len(one) == len(other):  # a step that is no number any more costs its point
            assert one == other


@pytest.mark.parametrize(
    ("value", "step"),
    [
        (AnyValue(double_value=3.0), 3),
        (AnyValue(string_value="3"), None),
        (AnyValue(double_value=math.nan), None),
        (AnyValue(double_value=1e30), None),
        (AnyValue(), None),
        (AnyValue(bytes_value=b"3"), None),
    ],
)
def test_a_step_that_is_no_number_costs_its_point(value: AnyValue, step: int | None) -> None:
    odd = Exemplar(as_double=0.5, time_unix_nano=1)
    odd.filtered_attributes.append(KeyValue(key=semconv.STEP, value=value))
    odd.filtered_attributes.add(key=semconv.SEQUENCE, value=AnyValue(int_value=100))
    [series] = decode_series(parse_metrics(encoded([odd, exemplar(4, 0.5, 1)])))
    assert [point.step for point in series.points] == ([4] if step is None else [step, 4])
    assert series.sequence == (None if step is None else 100)
