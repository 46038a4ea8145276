from __future__ import annotations

import struct
import threading
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context

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
    assert shortest_float32(as_float32(0.001)) == 0.001
    assert shortest_float32(as_float32(0.1)) == 0.1


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
