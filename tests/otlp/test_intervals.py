"""Intervals of whole numbers, beside a set of these numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracelet_otel.otlp.intervals import Intervals

NUMBERS = st.integers(0, 30)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=8)


def numbers(parts: list[tuple[int, int]]) -> set[int]:
    return {number for start, end in parts for number in range(start, end)}


@given(PAIRS, NUMBERS, NUMBERS)
def test_intervals_are_a_set_of_numbers(added: list[tuple[int, int]], start: int, end: int) -> None:
    intervals = Intervals()
    for pair in added:
        intervals.add(*pair)
    held = numbers(added)
    assert numbers(list(intervals)) == held
    gaps = [right[0] - left[1] for left, right in zip(list(intervals), list(intervals)[1:], strict=False)]
    assert all(gap > 0 for gap in gaps)  # those that touch are one
    missing = intervals.missing(start, end)
    assert all(first < last for first, last in missing)
    assert numbers(missing) == set(range(start, end)) - held
    assert str(Intervals(str(intervals))) == str(intervals)


def test_the_text_and_what_is_not_there() -> None:
    intervals = Intervals("3-5,8-9")
    assert (list(intervals), str(intervals)) == ([(3, 5), (8, 9)], "3-5,8-9")
    assert intervals.missing(0, 12) == [(0, 3), (5, 8), (9, 12)]
    assert intervals.missing(3, 5) == intervals.missing(8, 8) == []
    assert intervals.missing(5, 8) == [(5, 8)]
    intervals.add(5, 8)
    intervals.add(20, 20)
    assert str(intervals) == "3-9"


def test_text_that_is_no_interval_is_left_out() -> None:
    assert list(Intervals()) == list(Intervals("x,3,-4,5-,1-2-3,-")) == []
    assert list(Intervals("x,3-4,y-6")) == [(3, 4)]
