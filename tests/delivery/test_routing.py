"""What of metrics and records a route lets through."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from tracelet_otel import semconv
from tracelet_otel.delivery.routing import Route, take_route
from tracelet_otel.settings import ConfigurationError


def metrics(*tags: str) -> MetricsData:
    """A point of each tag, and a metric of the machine and of another instrument."""
    points = [NumberDataPoint({semconv.TAG: tag}, 0, 1, 0.5, []) for tag in tags]
    cumulative = AggregationTemporality.CUMULATIVE
    found = [
        Metric(semconv.SCALAR, None, None, Gauge(points)),
        Metric(semconv.SCALAR_NONFINITE, None, None, Sum(points[:1], cumulative, True)),
        Metric("system.cpu.utilization", None, None, Gauge([NumberDataPoint({}, 0, 1, 0.5, [])])),
        Metric("requests", None, None, Sum([NumberDataPoint({}, 0, 1, 3, [])], cumulative, True)),
    ]
    scope = ScopeMetrics(InstrumentationScope("test"), found, "")
    return MetricsData([ResourceMetrics(Resource({}), [scope], "")])


def names(data: MetricsData) -> list[str]:
    """The tags of the points, and the names of the other metrics."""
    found: list[str] = []
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        tags = [str((point.attributes or {}).get(semconv.TAG, "")) for point in metric.data.data_points]
        found += tags if metric.name in semconv.SCALARS else [metric.name]
    return found


def record(kind: str, tag: str = "", *, ours: bool = True) -> ReadableLogRecord:
    name = f"{semconv.EVENT_PREFIX}{kind}" if ours else kind
    attributes = {semconv.TAG: tag} if tag else None
    return ReadableLogRecord(LogRecord(event_name=name, attributes=attributes), Resource({}))


ALL = ["train/loss", "val/loss", "train/loss", "system.cpu.utilization", "requests"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ALL),
        ({"include": "train/*"}, ["train/loss", "train/loss", "system.cpu.utilization"]),
        ({"exclude": ["train/*", "req*"]}, ["val/loss", "system.cpu.utilization"]),
        (
            {"include": ["*/loss"], "exclude": ["val/*"]},
            ["train/loss", "train/loss", "system.cpu.utilization"],
        ),
        ({"kinds": ["scalar"]}, ["train/loss", "val/loss", "train/loss", "requests"]),
        ({"kinds": ["system"]}, ["system.cpu.utilization"]),
        ({"kinds": ["text"]}, []),
    ],
)
def test_metrics_by_tag_and_kind(options: dict[str, Any], expected: list[str]) -> None:
    route, others = take_route("aim", {**options, "repo": "here"})
    assert others == {"repo": "here"}
    for _ in range(2):  # the second time from what the route remembers
        assert names(route.metrics(metrics("train/loss", "val/loss"))) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["run", "text", "text", "params", "foreign", "status"]),
        ({"include": ["a*"]}, ["run", "text", "params", "foreign", "status"]),
        ({"kinds": ["params"]}, ["run", "params", "foreign", "status"]),
        ({"kinds": ["scalar"]}, ["run", "foreign", "status"]),
    ],
)
def test_records_by_tag_and_kind(options: dict[str, Any], expected: list[str]) -> None:
    route, _ = take_route("aim", options)
    records = [
        *(record("run"), record("text", "about"), record("text", "begin"), record("params")),
        *(record("foreign", "begin", ours=False), record("status")),
    ]
    kept = [
        str(one.log_record.event_name).removeprefix(semconv.EVENT_PREFIX) for one in route.records(records)
    ]
    assert kept == expected


def test_routes_with_the_same_options_are_the_same() -> None:
    options = {"include": ["b", "a"], "exclude": [], "kinds": ["text", "scalar"]}
    route, _ = take_route("aim", options)
    again, _ = take_route("aim", route.options)
    assert route.options == {"include": ["a", "b"], "kinds": ["scalar", "text"]}
    assert again.options == route.options
    assert not route.takes_all
    assert Route().takes_all


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": 3}, "include must be a list of texts, got 3"),
        ({"exclude": [3]}, r"exclude must be a list of texts, got \[3\]"),
        ({"kinds": ["scalars"]}, "unknown kind 'scalars'; allowed are artifact, "),
        ({"kinds": ["run"]}, "unknown kind 'run'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"backend 'aim': {message}"):
        take_route("aim", options)
