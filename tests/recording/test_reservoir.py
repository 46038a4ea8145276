from __future__ import annotations

import struct
import threading
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from tracelet_otel.recording.reservoir import LosslessReservoir, shortest_float32
from tracelet_otel.recording.series import POINT_KEY


def as_float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_short_form_reads_back_to_the_same_float32(value: float) -> None:
    short = shortest_float32(value)
    assert struct.pack("<f", short) == struct.pack("<f", value)  # the sign of zero included


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_no_shorter_decimal_reads_back(value: float) -> None:
    import numpy as np

    # numpy prints the shortest decimal that identifies a float32.
    expected = Decimal(str(np.float32(value))).normalize().as_tuple().digits
    assert len(Decimal(repr(shortest_float32(value))).normalize().as_tuple().digits) <= len(expected)


def test_what_a_script_logs_is_what_is_kept() -> None:
    for written in (0.001, 0.1, 1 / 3, 123456.789, 3e-45, 3.4e38, 16777217.0):
        assert as_float32(shortest_float32(as_float32(written))) == as_float32(written)
    # 9.87302e-32 has a longer form that reads back too; those below 1e-38 have fewer digits.
    for short in (0.001, 0.1, -0.1, 0.0, 123456.0, 9.87302e-32, 1.1e-38, 3e-39, 1e-45, 3.4028235e38):
        assert shortest_float32(as_float32(short)) == short


def test_a_value_of_double_precision_stays_as_it_is() -> None:
    double = as_float32(0.1)  # whose shortest decimal as a float32 is 0.1
    reservoir = LosslessReservoir()
    reservoir.offer(double, 5, {}, Context({POINT_KEY: (0, None, False)}))
    reservoir.offer(double, 5, {}, Context())
    assert [exemplar.value for exemplar in reservoir.collect({})] == [double, double]


def test_points_that_come_through_the_instrument_keep_their_span() -> None:
    span = NonRecordingSpan(SpanContext(trace_id=7, span_id=8, is_remote=False))
    within = set_span_in_context(span, Context({POINT_KEY: (0, None, False)}))
    reservoir = LosslessReservoir()
    reservoir.offer(1.0, 5, {}, within)
    reservoir.offer(1.0, 5, {}, set_span_in_context(span, Context()))
    reservoir.offer(1.0, 5, {}, Context())
    found = [(exemplar.trace_id, exemplar.span_id) for exemplar in reservoir.collect({})]
    assert found == [(7, 8), (7, 8), (None, None)]


def test_the_last_value_is_known_before_and_after_a_collection() -> None:
    reservoir = LosslessReservoir()
    assert reservoir.latest() is None
    reservoir.offer(1.0, 5, {}, Context())
    reservoir.offer(2.0, 5, {}, Context())
    assert reservoir.latest() == 2.0
    reservoir.collect({})
    assert reservoir.latest() == 2.0


def test_sequence_numbers_go_on_over_collections() -> None:
    reservoir = LosslessReservoir()
    firsts: list[Any] = []
    for count in (3, 2, 1):
        for _ in range(count):
            reservoir.offer(1.0, 5, {}, Context())
        attributes = [exemplar.filtered_attributes for exemplar in reservoir.collect({})]
        assert attributes[1:] == [None] * (count - 1)
        assert attributes[0] is not None
        firsts.append(attributes[0]["tracelet.sequence"])
    assert {type(first) for first in firsts} == {int}
    assert [first - firsts[0] for first in firsts] == [0, 3, 5]


def test_exemplars_have_order_step_time_and_value() -> None:
    reservoir = LosslessReservoir()
    reservoir.offer(as_float32(0.1), 5, {}, Context({POINT_KEY: (7, 99, True)}))
    reservoir.offer(0.2, 6, {}, Context({POINT_KEY: (8, None, False)}))
    reservoir.offer(0.3, 7, {}, Context())
    first, second, third = reservoir.collect({})
    assert (first.value, first.time_unix_nano) == (0.1, 99)
    assert first.filtered_attributes is not None
    assert first.filtered_attributes.keys() == {"tracelet.step", "tracelet.sequence"}
    assert first.filtered_attributes["tracelet.step"] == 7
    assert (second.value, second.time_unix_nano) == (0.2, 6)
    assert third.filtered_attributes is None
    assert reservoir.collect({}) == []


def test_nothing_falls_between_two_collections() -> None:
    reservoir = LosslessReservoir()
    started = threading.Barrier(5)

    def offer(worker: int) -> None:
        started.wait()
        for step in range(20_000):
            reservoir.offer(float(worker), 1, {}, Context({POINT_KEY: (step, None, False)}))

    threads = [threading.Thread(target=offer, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    collected = []
    while any(thread.is_alive() for thread in threads):
        collected += reservoir.collect({})
    collected += reservoir.collect({})
    for worker in range(4):
        steps = [e.filtered_attributes["tracelet.step"] for e in collected if e.value == worker]
        assert steps == list(range(20_000))
