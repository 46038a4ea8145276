"""Cuts what was collected, as the SDK's objects, into requests that every receiver takes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)

from tracelet_otel import semconv
from tracelet_otel.otlp.run_resources import RunResources

MAX_EXEMPLARS = 4_000
"""Exemplars of one data point on the wire."""
MAX_POINTS_PER_REQUEST = 4_000
"""Exemplars a request, about 300 KiB: whole requests of trackers that take 1,000 points each, and a second
at most between two signs of progress."""
MAX_SERIES_PER_CUT = 200
"""Series that are cut at the same times. With more, a request would have only a few exemplars of each, and
each data point repeats its series' attributes."""
MAX_LOG_BYTES_PER_REQUEST = 2 * 1024 * 1024

_Piece = tuple[Metric, NumberDataPoint]
"""A data point with the metric that it is of."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One request's worth of metrics, as the SDK's objects."""

    data: MetricsData
    points: int
    has_new_points: bool
    """Whether it holds more than live values of series that have no new points."""


def split(data: MetricsData, runs: RunResources | None = None) -> Iterator[Chunk]:
    """Cuts collected metrics into requests of at most :data:`MAX_POINTS_PER_REQUEST` exemplars.

    The order of a series is the order of its pieces. Series are cut at the same times, so that what was
    logged together, a step's values of all tags, stays together: trackers write it as one row. The first
    request also holds all other metrics; the live values of the series that have no new points come last,
    without those of runs that have ended.

    Args:
        data: of one resource.
        runs: the resource of each run, for points of several; None leaves them under ``data``'s own.
    """
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            others: list[Metric] = []
            fresh: list[_Piece] = []
            quiet: list[_Piece] = []
            for metric in scope.metrics:
                if metric.name not in semconv.SCALARS:
                    others.append(metric)
                    continue
                for point in metric.data.data_points:
                    assert isinstance(point, NumberDataPoint)
                    (fresh if point.exemplars else quiet).append((metric, point))
            for described, series in _by_run(fresh, resource, runs):
                for metrics, points in _pack(others, _pieces(series)):
                    yield Chunk(_one_scope(described, scope, metrics), points, True)
                others = []
            for described, series in _by_run(quiet, resource, runs, live=True):
                for start in range(0, len(series), MAX_POINTS_PER_REQUEST):
                    for metrics, _ in _pack([], series[start : start + MAX_POINTS_PER_REQUEST]):
                        yield Chunk(_one_scope(described, scope, metrics), 0, False)


def with_metrics(data: MetricsData, change: Callable[[Metric], Metric | None]) -> MetricsData:
    """``data`` with each metric replaced by what ``change`` returns for it; None leaves the metric out."""
    return MetricsData(
        [
            replace(
                resource,
                scope_metrics=[
                    replace(scope, metrics=[kept for item in scope.metrics if (kept := change(item))])
                    for scope in resource.scope_metrics
                ],
            )
            for resource in data.resource_metrics
        ]
    )


def _one_scope(resource: ResourceMetrics, scope: ScopeMetrics, metrics: list[Metric]) -> MetricsData:
    return MetricsData([replace(resource, scope_metrics=[replace(scope, metrics=metrics)])])


def _by_run(
    series: list[_Piece], resource: ResourceMetrics, runs: RunResources | None, *, live: bool = False
) -> list[tuple[ResourceMetrics, list[_Piece]]]:
    """The series by the resource that they go out under; the default run's first, even if it has none."""
    if runs is None:
        return [(resource, series)]
    groups: dict[object, list[_Piece]] = {None: []}
    if runs.is_single and not live:
        groups[None] = series
    else:
        for one in series:
            run_id = (one[1].attributes or {}).get(semconv.RUN_ID)
            if live and not runs.goes_on(run_id):
                continue
            is_default = runs.of(run_id) is runs.default
            groups.setdefault(None if is_default else run_id, []).append(one)
    return [(replace(resource, resource=runs.of(run_id)), members) for run_id, members in groups.items()]


def _pieces(series: Sequence[_Piece]) -> Iterator[_Piece | None]:
    """The series in pieces, the oldest of all series first; None where the next must be in a new request."""
    for first in range(0, len(series), MAX_SERIES_PER_CUT):
        members = series[first : first + MAX_SERIES_PER_CUT]
        starts = [0] * len(members)
        for time in _cuts([exemplar.time_unix_nano for _, point in members for exemplar in point.exemplars]):
            if any(starts):
                yield None
            for index, (metric, point) in enumerate(members):
                exemplars = point.exemplars
                # Times may go back within a series, if the user gives them: then any place will do.
                end = (
                    len(exemplars) if time is None else bisect_left(exemplars, time, starts[index], key=_time)
                )
                for start in range(starts[index], end, MAX_EXEMPLARS):
                    part = _numbered(exemplars, start, min(start + MAX_EXEMPLARS, end))
                    yield metric, _with_exemplars(metric, point, part)
                starts[index] = end


def _cuts(times: list[int]) -> Iterator[int | None]:
    """Times that end parts of at most :data:`MAX_POINTS_PER_REQUEST`, at last None.

    A part has more only if its times are all the same; :func:`_pack` cuts it.
    """
    times.sort()  # mostly sorted already, in runs
    start = 0
    while start + MAX_POINTS_PER_REQUEST < len(times):
        end = bisect_left(times, times[start + MAX_POINTS_PER_REQUEST], start)
        if end == start:
            end = bisect_right(times, times[start], start)
        if end < len(times):
            yield times[end]
        start = end
    yield None


def _time(exemplar: Exemplar) -> int:
    return exemplar.time_unix_nano


def _numbered(exemplars: Sequence[Exemplar], start: int, end: int) -> Sequence[Exemplar]:
    """The exemplars of one data point on the wire; the first one has its number in the series."""
    part = exemplars[start:end]
    number = (exemplars[0].filtered_attributes or {}).get(semconv.SEQUENCE)
    if start and isinstance(number, int):
        attributes = {**(part[0].filtered_attributes or {}), semconv.SEQUENCE: number + start}
        part = [replace(part[0], filtered_attributes=attributes), *part[1:]]
    return part


def _with_exemplars(metric: Metric, point: NumberDataPoint, exemplars: Sequence[Exemplar]) -> NumberDataPoint:
    # The live value is that of the newest exemplar, so that a float32 shows its short form there too.
    value = exemplars[-1].value if metric.name == semconv.SCALAR else point.value
    return replace(point, exemplars=exemplars, value=value)


def _pack(whole: list[Metric], pieces: Iterable[_Piece | None]) -> Iterator[tuple[list[Metric], int]]:
    metrics: list[Metric] = whole
    members: dict[str, list[NumberDataPoint]] = {}
    sources: dict[str, Metric] = {}
    count = 0

    def finish() -> list[Metric]:
        return metrics + [
            replace(sources[name], data=replace(sources[name].data, data_points=points))
            for name, points in members.items()
        ]

    for piece in pieces:
        if count and (piece is None or count + len(piece[1].exemplars) > MAX_POINTS_PER_REQUEST):
            yield finish(), count
            metrics, members, count = [], {}, 0
        if piece is None:
            continue
        metric, point = piece
        sources[metric.name] = metric
        members.setdefault(metric.name, []).append(point)
        count += len(point.exemplars)
    if metrics or members:
        yield finish(), count


def split_logs(records: Sequence[ReadableLogRecord]) -> Iterator[list[ReadableLogRecord]]:
    """Cuts records into requests of about :data:`MAX_LOG_BYTES_PER_REQUEST`, in order."""
    part: list[ReadableLogRecord] = []
    size = 0
    for record in records:
        weight = 512 + payload_size(record)
        if part and size + weight > MAX_LOG_BYTES_PER_REQUEST:
            yield part
            part, size = [], 0
        part.append(record)
        size += weight
    if part:
        yield part


def payload_size(record: ReadableLogRecord) -> int:
    """Bytes of the record's payload."""
    body = record.log_record.body
    return len(body) if isinstance(body, bytes) else 0
