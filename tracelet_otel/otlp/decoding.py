"""OTLP requests to series and records: pure, and the only decoder there is.

Trackers read exemplars only: a cumulative gauge repeats its last value at every collection, and
that is not a new point. Metrics of other instruments become series of their own, see :func:`plain_series`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast, get_args

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, Metric, NumberDataPoint
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tracelet_otel import semconv
from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.foundation.guard import log_once, logging
from tracelet_otel.otlp import traversal
from tracelet_otel.otlp.exemplars import spans
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series, SystemPoint
from tracelet_otel.semconv import Kind

_KINDS: frozenset[str] = frozenset(get_args(Kind))
_SYSTEM = ("system.", "process.", "hw.")
"""How the names of metrics about the machine begin, by OpenTelemetry's conventions."""
NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""What :data:`~tracelet_otel.semconv.VALUE` may be."""


def parse_metrics(data: bytes) -> ExportMetricsServiceRequest:
    """Parses a metrics request.

    Raises:
        PermanentError: ``data`` is not one.
    """
    try:
        return ExportMetricsServiceRequest.FromString(data)
    except DecodeError as error:
        raise PermanentError(f"not an OTLP metrics request: {error}") from error


def parse_logs(data: bytes) -> ExportLogsServiceRequest:
    """Parses a logs request.

    Raises:
        PermanentError: ``data`` is not one.
    """
    try:
        return ExportLogsServiceRequest.FromString(data)
    except DecodeError as error:
        raise PermanentError(f"not an OTLP logs request: {error}") from error


def decode_value(value: AnyValue) -> Any:
    """An OTLP value as Python's own type; an unset one is None."""
    which = value.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return [decode_value(item) for item in value.array_value.values]
    if which == "kvlist_value":
        return decode_attributes(value.kvlist_value.values)
    return getattr(value, which)


def decode_attributes(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    """OTLP attributes as a dict."""
    return {item.key: decode_value(item.value) for item in attributes}


def resource_run(resource: Resource) -> RunInfo | None:
    """The run that a resource describes, if it names one."""
    attributes = decode_attributes(resource.attributes)
    run_id = attributes.get(semconv.RUN_ID)
    if not isinstance(run_id, str) or not run_id:
        return None
    return RunInfo(
        id=run_id,
        name=str(attributes.get(semconv.RUN_NAME, "")),
        project=str(attributes.get(semconv.PROJECT, "")),
        experiment=str(attributes.get(semconv.EXPERIMENT, "")),
        parent=str(attributes.get(semconv.PARENT, "")),
    )


def presumed_run(run_id: str, described: Iterable[RunInfo | None]) -> RunInfo | None:
    """What the resources of a request say of a run, if one names it or another run of its process.

    A process may write several runs, of which its resource names the first. The others are filed where that
    one is, until their own description comes.
    """
    infos = [info for info in described if info is not None]
    for info in infos:
        if info.id == run_id:
            return info
    return RunInfo(run_id, project=infos[0].project, experiment=infos[0].experiment) if infos else None


def decode_series(request: ExportMetricsServiceRequest) -> Iterator[Series]:
    """The logged points of a request: a series for each data point that has any."""
    for metric in traversal.metrics(request):
        if metric.name == semconv.SCALAR:
            yield from _series(metric.gauge.data_points)
        elif metric.name == semconv.SCALAR_NONFINITE:
            yield from _series(metric.sum.data_points)


def _series(data_points: Iterable[NumberDataPoint]) -> Iterator[Series]:
    for data_point in data_points:
        if not data_point.exemplars:
            continue
        attributes = decode_attributes(data_point.attributes)
        tag, run_id, rank = (attributes.get(key) for key in (semconv.TAG, semconv.RUN_ID, semconv.RANK))
        if not isinstance(tag, str) or not isinstance(run_id, str):
            log_once(
                "decoding",
                logging.WARNING,
                "%d points without tag or run: skipped",
                len(data_point.exemplars),
            )
            continue
        value = attributes.get(semconv.VALUE)
        nonfinite = NONFINITE.get(value) if isinstance(value, str) else None
        points = _points(data_point)
        if nonfinite is not None:
            points = [Point(step, nonfinite, time_unix_nano) for step, _, time_unix_nano in points]
        number = first_number(data_point)
        if len(points) < len(data_point.exemplars):
            number = None  # the points are not those that it counts
            log_once(
                "decoding steps", logging.WARNING, "points of %s whose step is not a number: skipped", tag
            )
        yield Series(run_id, tag, points, rank if type(rank) is int else None, number)


def first_number(data_point: NumberDataPoint) -> int | None:
    """The number of a data point's first exemplar within its series, if it has one."""
    filtered = data_point.exemplars[0].filtered_attributes
    if len(filtered) < 2:
        return None
    number = decode_attributes(filtered).get(semconv.SEQUENCE)
    return number if type(number) is int else None


def has_steps(data_point: NumberDataPoint) -> bool:
    """Whether every exemplar has a number as its step, or no step."""
    return not any(
        _point(exemplar) is None
        for span in spans(data_point)
        if span.layout is None
        for exemplar in data_point.exemplars[span.first : span.first + span.length]
    )


def _points(data_point: NumberDataPoint) -> list[Point]:
    points: list[Point] = []
    for span in spans(data_point):
        if span.layout is not None:
            points += span.points()
        else:
            some = map(_point, data_point.exemplars[span.first : span.first + span.length])
            points += [point for point in some if point is not None]
    return points


def _point(exemplar: Exemplar) -> Point | None:
    """The point; None if its step is not a number."""
    filtered = exemplar.filtered_attributes
    if len(filtered) == 1 and filtered[0].key == semconv.STEP and filtered[0].value.HasField("int_value"):
        step: object = filtered[0].value.int_value
    else:
        step = decode_attributes(filtered).get(semconv.STEP, 0)
    if not isinstance(step, (int, float)) or not -(2**63) <= step < 2**63:  # so is NaN
        return None
    return Point(int(step), _value(exemplar), exemplar.time_unix_nano)


def _value(number: Exemplar | NumberDataPoint) -> float:
    return number.as_double if number.HasField("as_double") else float(number.as_int)


def plain_series(request: ExportMetricsServiceRequest) -> Iterator[tuple[str, float, int]]:
    """All other metrics, except those of the machine, as ``(name, value, time_unix_nano)``.

    A gauge or sum keeps its name; a histogram becomes ``name.count``, ``name.sum``, ``name.min`` and
    ``name.max``. Attributes are appended to the name as ``{key=value,...}``, sorted.
    """
    for metric in traversal.metrics(request):
        if metric.name not in semconv.SCALARS and not is_system(metric.name):
            yield from _plain(metric)


def is_system(name: str) -> bool:
    """Whether a metric of this name is about the machine."""
    return name.startswith(_SYSTEM)


def system_points(request: ExportMetricsServiceRequest) -> Iterator[SystemPoint]:
    """The gauges and sums of a request that are about the machine."""
    for metric in traversal.metrics(request):
        kind = metric.WhichOneof("data")
        if is_system(metric.name) and kind in ("gauge", "sum"):
            for point in traversal.data_points(metric):
                attributes = {
                    name: item
                    for name, item in decode_attributes(point.attributes).items()
                    if isinstance(item, (str, int, float))
                }
                yield SystemPoint(metric.name, attributes, _value(point), point.time_unix_nano)


def _plain(metric: Metric) -> Iterator[tuple[str, float, int]]:
    kind = metric.WhichOneof("data")
    if kind in ("gauge", "sum"):
        for point in traversal.data_points(metric):
            yield metric.name + _suffix(point.attributes), _value(point), point.time_unix_nano
    elif kind in ("histogram", "exponential_histogram"):
        for point in traversal.data_points(metric):
            suffix = _suffix(point.attributes)
            yield f"{metric.name}.count{suffix}", float(point.count), point.time_unix_nano
            for part in ("sum", "min", "max"):
                if point.HasField(part):
                    yield f"{metric.name}.{part}{suffix}", getattr(point, part), point.time_unix_nano
    elif kind is not None:
        log_once("decoding", logging.WARNING, "metric %s has kind %s: skipped", metric.name, kind)


def _suffix(attributes: Iterable[KeyValue]) -> str:
    decoded = decode_attributes(attributes)
    if not decoded:
        return ""
    return "{" + ",".join(f"{key}={decoded[key]}" for key in sorted(decoded)) + "}"


def decode_records(request: ExportLogsServiceRequest) -> Iterator[Record]:
    """The records of a request, in order. Log records that are not ours are skipped."""
    for log_record in traversal.log_records(request):
        record = decode_record(log_record)
        if record is not None:
            yield record


def decode_record(log_record: LogRecord) -> Record | None:
    """One record; None if it is not ours."""
    name = log_record.event_name
    kind = name[len(semconv.EVENT_PREFIX) :]
    if not name.startswith(semconv.EVENT_PREFIX):
        return None
    attributes = decode_attributes(log_record.attributes)
    run_id = attributes.get(semconv.RUN_ID)
    if kind not in _KINDS or not isinstance(run_id, str):
        log_once("decoding", logging.WARNING, "event %s is unknown or has no run: skipped", name)
        return None
    step = attributes.get(semconv.STEP)
    return Record(
        run_id=run_id,
        kind=cast("Kind", kind),
        tag=str(attributes.get(semconv.TAG, "")),
        step=step if isinstance(step, int) else 0,
        time_unix_nano=log_record.time_unix_nano,
        attributes=attributes,
        mime_type=str(attributes.get(semconv.MIME_TYPE, "")),
        payload=log_record.body.bytes_value if log_record.body.HasField("bytes_value") else None,
        uri=str(attributes.get(semconv.PAYLOAD_URI, "")),
        sha256=str(attributes.get(semconv.PAYLOAD_SHA256, "")),
    )


def run_info(record: Record) -> RunInfo:
    """The description that a ``run`` record carries.

    Raises:
        ValueError: its payload is not what :mod:`tracelet_otel.otlp.records` says.
    """
    described = json.loads(record.read() or b"{}")
    if not isinstance(described, Mapping):
        raise ValueError("a run's description must be a JSON object")
    description = cast("Mapping[str, Any]", described)
    tags = cast("Any", description.get("tags") or {})
    if not isinstance(tags, Mapping):
        raise ValueError("a run's tags must be a JSON object")
    tags = cast("Mapping[str, Any]", tags)
    return RunInfo(
        id=record.run_id,
        name=str(description.get("name", "")),
        project=str(description.get("project", "")),
        experiment=str(description.get("experiment", "")),
        tags={str(key): str(value) for key, value in tags.items()},
        parent=str(description.get("parent", "")),
        family=str(description.get("family", "")),
    )
