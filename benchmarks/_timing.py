"""The points that hot_path.py logs, and the times that it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from _rows import Row

TAGS = tuple(f"train/metric_{index}" for index in range(10))


class Point(NamedTuple):
    tag: str
    value: float
    step: int


class Time(NamedTuple):
    """Microseconds a call."""

    wall: float
    cpu: float

    def minus(self, other: Time) -> Time:
        return Time(self.wall - other.wall, self.cpu - other.cpu)


def make_points(count: int) -> list[Point]:
    # At most six digits, so that a value is the same after it was a float32.
    return [Point(TAGS[i % len(TAGS)], i * 7919 % 1_000_003 % 100_000 / 1000, i) for i in range(count)]


def median_time(times: list[Time]) -> Time:
    return Time(*(statistics.median(column) for column in zip(*times, strict=True)))


def timed(action: Callable[[], object], calls: int, cpu: Callable[[], float] = time.thread_time) -> Time:
    begin, begin_cpu = time.perf_counter(), cpu()
    action()
    spent_cpu, spent = cpu() - begin_cpu, time.perf_counter() - begin
    return Time(spent / calls * 1e6, spent_cpu / calls * 1e6)


def ratios(name: str, pairs: Iterable[tuple[float, float]], target: float | None = None) -> Row:
    return Row(name, "x", [ours / theirs for ours, theirs in pairs], target)
