"""Of a request that a backend has in part, the rest is kept, exactly."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.gateway.support import Job, Station
from tests.support.contract_data import Request
from tracelet_otel.gateway.deduplication import Deduplicator
from tracelet_otel.gateway.validation import Element

PARTS = (range(3), range(3, 6), range(6, 10))
"""The steps of one series, as they are collected."""


def element(*ranges: tuple[int, int]) -> Element:
    """A data point of one series with the points of these numbers."""
    return Element("run", "scalar", "x", (0, 0, 0, 0), None, b"series", first=ranges[0][0], ranges=ranges)


def numbers(ranges: tuple[tuple[int, int], ...] | None) -> list[int]:
    return [number for start, end in ranges or () for number in range(start, end)]


def test_what_is_missing_is_what_was_not_there() -> None:
    """Every pair of known ranges, in both orders, and every range that comes then."""
    every = list(combinations(range(8), 2))
    for first in every:
        for second in every:
            known = Deduplicator()
            known.add("run", b"series", (first,))
            new = known.missing(element(second))
            assert numbers(new) == sorted({*range(*second)} - {*range(*first)}), (first, second)
            known.add("run", b"series", new or ())
            for third in every:
                left = sorted({*range(*third)} - {*range(*first), *range(*second)})
                found = known.missing(element(third))
                assert numbers(found) == left, (first, second, third)
                assert (found is None) == (not left)


def test_a_data_point_of_several_ranges_is_known_by_each() -> None:
    known = Deduplicator()
    known.add("run", b"series", ((2, 4),))
    assert known.missing(element((0, 3), (5, 8))) == ((0, 2), (5, 8))


@pytest.mark.parametrize("known", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_a_request_that_is_known_in_part_adds_the_rest(tmp_path: Path, known: tuple[int, ...]) -> None:
    """Its first points, its middle or its last ones came before."""
    station = Station(tmp_path)
    job = Job("run-a")
    parts = [job.steps("x", steps)[0] for steps in PARTS]
    whole = ExportMetricsServiceRequest()
    for part in parts:
        message = ExportMetricsServiceRequest.FromString(part.data)
        if not whole.resource_metrics:
            whole.CopyFrom(message)
        else:
            (point,) = message.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points
            target = whole.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0]
            target.exemplars.extend(point.exemplars)
    station.accept([parts[number] for number in known])
    station.accept([Request("metrics", whole.SerializeToString())])
    station.flush()
    assert station.points("run-a") == job.keys
    assert station.backends[0].delivery.counts.captured_points == 10
    station.close()
