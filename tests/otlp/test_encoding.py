from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource

from tracelet_otel import semconv
from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.otlp import encoding, splitting
from tracelet_otel.otlp.decoding import decode_records, decode_series, parse_logs, parse_metrics, plain_series
from tracelet_otel.otlp.records import Point, Record
from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.recording.run import Run, RunScope
from tracelet_otel.session.pipeline import Pipeline

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=30)


def pipeline(run: Run | None = None) -> Pipeline:
    return Pipeline(Resource.create({}), RunScope(run or Run(id="r")), interval=60, media=MediaFolder())


def collect(pipe: Pipeline) -> list[bytes]:
    data = pipe._reader.take()
    chunks = splitting.split(data) if data else []
    return [encoding.encode(c.data).SerializeToString() for c in chunks if c.has_new_points]


def same(left: float, right: float) -> bool:
    return (math.isnan(left) and math.isnan(right)) or (
        left == right and math.copysign(1, left) == math.copysign(1, right)
    )


@given(st.lists(st.tuples(TEXT, st.floats(), INT64, st.integers(1, 2**62)), max_size=40))
def test_every_point_comes_out_as_it_went_in(logged: list[tuple[str, float, int, int]]) -> None:
    pipe = pipeline()
    for tag, value, step, time in logged:
        pipe.recorder.scalar((tag, value, step, time, False, None))
    decoded: dict[tuple[str, str], list[Point]] = {}
    for request in collect(pipe):
        for series in decode_series(parse_metrics(request)):
            for point in series.points:
                kind = "finite" if math.isfinite(point.value) else repr(point.value)
                decoded.setdefault((series.tag, kind), []).append(point)
    expected: dict[tuple[str, str], list[Point]] = {}
    for tag, value, step, time in logged:
        kind = "finite" if math.isfinite(value) else repr(value)
        expected.setdefault((tag, kind), []).append(Point(step, value, time))
    assert decoded.keys() == expected.keys()
    for key, points in expected.items():
        assert [(p.step, p.time_unix_nano) for p in decoded[key]] == [
            (p.step, p.time_unix_nano) for p in points
        ]
        assert all(same(a.value, b.value) for a, b in zip(decoded[key], points, strict=True))


def test_large_collections_are_cut_and_stay_in_order() -> None:
    pipe = pipeline()
    for step in range(10_001):
        pipe.recorder.scalar(("long", float(step), step, None, False, None))
        if step % 5 == 0:
            pipe.recorder.scalar((f"tag{step % 50}", float(step), step, None, False, None))
    requests = collect(pipe)
    assert len(requests) == 4
    steps: dict[str, list[int]] = {}
    for request in requests:
        message = parse_metrics(request)
        exemplars = sum(
            len(p.exemplars)
            for r in message.resource_metrics
            for s in r.scope_metrics
            for m in s.metrics
            for p in m.gauge.data_points
        )
        assert exemplars <= splitting.MAX_POINTS_PER_REQUEST
        for series in decode_series(message):
            steps.setdefault(series.tag, []).extend(point.step for point in series.points)
    assert steps["long"] == list(range(10_001))
    assert steps["tag0"] == list(range(0, 10_001, 50))


def test_what_was_logged_together_stays_together() -> None:
    pipe = pipeline()
    for step in range(1_000):
        for tag in range(10):
            pipe.recorder.scalar((f"tag{tag}", float(step), step, None, False, None))
        if step % 100 == 0:
            pipe.recorder.scalar(("rare", math.nan, step, None, False, None))
    requests = collect(pipe)
    assert len(requests) == 3
    steps = [
        {point.step for series in decode_series(parse_metrics(request)) for point in series.points}
        for request in requests
    ]
    # Only the last step of a request can be in the next one too.
    assert sum(map(len, steps)) <= 1_000 + len(requests) - 1


@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.floats(), st.integers(1, 20)),
        max_size=60,
    )
)
def test_cuts_keep_order_numbers_and_limit(logged: list[tuple[str, float, int]]) -> None:
    pipe = pipeline()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "MAX_EXEMPLARS", 7)
        patch.setattr(splitting, "MAX_POINTS_PER_REQUEST", 7)
        patch.setattr(splitting, "MAX_SERIES_PER_CUT", 3)
        for step, (tag, value, time) in enumerate(logged):  # equal times, and times that go back
            pipe.recorder.scalar((tag, value, step, time, False, None))
        requests = collect(pipe)
    steps: dict[tuple[str, str], list[int]] = {}
    numbers: dict[tuple[str, str], list[int]] = {}
    for request in requests:
        decoded = list(decode_series(parse_metrics(request)))
        assert sum(len(series.points) for series in decoded) <= 7
        seen: set[tuple[str, str]] = set()
        for series in decoded:
            assert series.sequence is not None
            value = series.points[0].value
            key = (series.tag, "finite" if math.isfinite(value) else repr(value))
            assert key not in seen  # two data points of one series in one request
            seen.add(key)
            steps.setdefault(key, []).extend(point.step for point in series.points)
            numbers.setdefault(key, []).extend(series.sequence + i for i in range(len(series.points)))
    expected: dict[tuple[str, str], list[int]] = {}
    for step, (tag, value, _) in enumerate(logged):
        expected.setdefault((tag, "finite" if math.isfinite(value) else repr(value)), []).append(step)
    assert steps == expected
    for found in numbers.values():
        assert found == list(range(found[0], found[0] + len(found)))


def test_a_collection_without_new_points_is_no_news() -> None:
    pipe = pipeline()
    pipe.recorder.scalar(("loss", 1.0, 0, None, False, None))
    assert len(collect(pipe)) == 1
    assert collect(pipe) == []


def test_rank_and_span_travel_with_the_point() -> None:
    from opentelemetry.sdk.trace import TracerProvider

    pipe = pipeline(Run(id="r", rank=3))
    with TracerProvider().get_tracer("t").start_as_current_span("step") as span:
        pipe.recorder.scalar(("loss", 1.0, 0, None, False, None))
    (request,) = collect(pipe)
    (series,) = decode_series(parse_metrics(request))
    assert series.rank == 3
    exemplar = (
        parse_metrics(request)
        .resource_metrics[0]
        .scope_metrics[0]
        .metrics[0]
        .gauge.data_points[0]
        .exemplars[0]
    )
    assert exemplar.span_id == span.get_span_context().span_id.to_bytes(8, "big")
    assert exemplar.trace_id == span.get_span_context().trace_id.to_bytes(16, "big")


def test_other_instruments_become_plain_series() -> None:
    pipe = pipeline()
    meter = pipe.meter_provider.get_meter("user")
    meter.create_gauge("temperature").set(20.5, {"room": "lab", "floor": 2})
    meter.create_counter("batches").add(7)
    meter.create_histogram("latency").record(3.0)
    (request,) = collect(pipe)
    plain = {name: value for name, value, _ in plain_series(parse_metrics(request))}
    assert plain == {
        "temperature{floor=2,room=lab}": 20.5,
        "batches": 7.0,
        "latency.count": 1.0,
        "latency.sum": 3.0,
        "latency.min": 3.0,
        "latency.max": 3.0,
    }
    assert list(decode_series(parse_metrics(request))) == []


def records(pipe: Pipeline) -> list[Record]:
    drained = pipe._events.drain()
    parts = splitting.split_logs(drained)
    return [
        r
        for part in parts
        for r in decode_records(parse_logs(encoding.encode_records(part).SerializeToString()))
    ]


@given(
    tag=TEXT, step=st.none() | INT64, payload=st.none() | st.binary(max_size=200), time=st.integers(1, 2**62)
)
def test_every_record_comes_out_as_it_went_in(
    tag: str, step: int | None, payload: bytes | None, time: int
) -> None:
    pipe = pipeline()
    attributes: dict[str, Any] = {semconv.FILE_NAME: "f", semconv.INDEX: 2}
    pipe.recorder.event(LoggedEvent("image", tag, step, payload, "image/png", attributes, time, None))
    (record,) = records(pipe)
    assert (record.run_id, record.kind, record.tag, record.step) == ("r", "image", tag, step or 0)
    assert (record.time_unix_nano, record.mime_type) == (time, "image/png")
    assert record.attributes[semconv.INDEX] == 2
    assert record.payload == payload
    assert record.read() == (payload or b"")


def test_the_sdks_limits_cut_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for signal in ("", "LOGRECORD_"):
        monkeypatch.setenv(f"OTEL_{signal}ATTRIBUTE_COUNT_LIMIT", "1")
        monkeypatch.setenv(f"OTEL_{signal}ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", "always_off")
    pipe = pipeline()
    pipe.recorder.event(LoggedEvent("text", "a long tag", 5, b"payload", "text/plain", None, None, None))
    pipe.recorder.scalar(("a long tag", 1.0, 5, None, False, None))
    (record,) = records(pipe)
    assert (record.run_id, record.tag, record.step, record.payload) == ("r", "a long tag", 5, b"payload")
    (series,) = decode_series(parse_metrics(collect(pipe)[0]))
    assert (series.tag, len(series.points)) == ("a long tag", 1)


def test_a_large_payload_goes_through_a_file_and_comes_out_whole() -> None:
    pipe = pipeline()
    payload = bytes(range(256)) * 8192
    pipe.recorder.event(LoggedEvent("image", "big", 1, payload, "image/png", None, None, None))
    (record,) = records(pipe)
    assert record.payload is None
    assert record.uri
    assert record.read() == payload


def test_what_is_not_otlp_is_a_permanent_error() -> None:
    for parse in (parse_metrics, parse_logs):
        try:
            parse(b"\xff\xff\xff")
        except PermanentError:
            continue
        raise AssertionError("accepted")
