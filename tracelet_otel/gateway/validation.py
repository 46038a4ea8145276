"""Validates a request: its data points and records, each with its run and its identity.

The identity of a data point with a sequence number is its series and the numbers of its exemplars, so that a
part of it can be a duplicate. The identity of everything else is a digest of its bytes.

What is refused here is refused for ever: no run can have it, or not with its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint

from tracelet_otel import semconv
from tracelet_otel.delivery.spool.media import local_path
from tracelet_otel.otlp.decoding import (
    decode_attributes,
    decode_record,
    first_number,
    has_steps,
    is_system,
    resource_run,
    run_info,
)
from tracelet_otel.otlp.intervals import Intervals
from tracelet_otel.otlp.records import Record, RunInfo

MOST_RUN_ID: Final = 1000
"""Characters."""
_KINDS: Final = {semconv.SCALAR: "gauge", semconv.SCALAR_NONFINITE: "sum"}
_NONFINITE: Final = ("NaN", "Infinity", "-Infinity")
_STATUSES: Final = ("finished", "failed", "killed")

Range = tuple[int, int]
"""Sequence numbers, from the first to before the second."""


@dataclass(slots=True)
class Element:
    """One data point or record."""

    run_id: str
    kind: str
    """``scalar``, ``system``, or the kind of record."""
    tag: str
    """For routes: the tag, or the name of another instrument's metric."""
    place: tuple[int, ...]
    """Its indices in the request."""
    message: Any
    """The message itself."""
    key: bytes
    """A digest of its series if it is numbered, else of itself; without the run."""
    points: int = 0
    """Logged points in it."""
    first: int | None = None
    """Number of its first point."""
    ranges: tuple[Range, ...] = ()
    """Its numbers, except those that are earlier in the request."""
    record: Record | None = None


@dataclass(slots=True)
class Validated:
    """The valid content of a request, and what was refused."""

    elements: list[Element] = field(default_factory=list[Element])
    rejected: int = 0
    """Data points or records."""
    points: int = 0
    """Logged points in the request."""
    rejected_points: int = 0
    repeated: int = 0
    """Data points or records that are in the request twice."""
    reasons: dict[str, int] = field(default_factory=dict[str, int])
    resources: list[RunInfo | None] = field(default_factory=list["RunInfo | None"])
    """The runs that the resources describe, by the resource's index."""

    def reject(self, reason: str, count: int = 1, points: int = 0) -> None:
        """Counts what is refused."""
        if count:
            self.rejected += count
            self.rejected_points += points
            self.reasons[reason] = self.reasons.get(reason, 0) + count

    @property
    def message(self) -> str:
        """Why something was refused."""
        return "; ".join(f"{count}: {reason}" for reason, count in self.reasons.items())


def validate_metrics(request: ExportMetricsServiceRequest) -> Validated:
    """The data points of a request, without those of our gauge that have no new points."""
    validated = Validated()
    series: dict[tuple[str, bytes], Intervals] = {}
    others: set[tuple[str, bytes]] = set()
    for number, resource in enumerate(request.resource_metrics):
        info = resource_run(resource.resource)
        validated.resources.append(info)
        for place, metric in (
            ((number, scope_number, metric_number), metric)
            for scope_number, scope in enumerate(resource.scope_metrics)
            for metric_number, metric in enumerate(scope.metrics)
        ):
            if metric.name in _KINDS:
                _check_series(validated, metric, place, series, others)
            else:
                _check_others(validated, metric, place, info, others)
    return validated


def _check_series(
    validated: Validated,
    metric: Metric,
    place: tuple[int, int, int],
    series: dict[tuple[str, bytes], Intervals],
    others: set[tuple[str, bytes]],
) -> None:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data_points: Iterable[NumberDataPoint] = getattr(metric, kind).data_points
    if kind != _KINDS[metric.name]:
        count = len(getattr(metric, kind).data_points)
        validated.reject(f"{metric.name} is a {kind}, not a {_KINDS[metric.name]}", count)
        return
    name = metric.name.encode()
    for point_number, data_point in enumerate(data_points):
        count = len(data_point.exemplars)
        if not count:
            continue
        validated.points += count
        attributes = decode_attributes(data_point.attributes)
        tag, run_id = attributes.get(semconv.TAG), attributes.get(semconv.RUN_ID)
        reason = _series_fault(metric.name, attributes, data_point)
        if reason or not isinstance(tag, str) or not isinstance(run_id, str):
            validated.reject(reason, points=count)
            continue
        element = Element(run_id, "scalar", tag, (*place, point_number), data_point, b"", count)
        element.first = first_number(data_point)
        if element.first is None:
            element.key = _digest(name, data_point.SerializeToString())
            if (run_id, element.key) in others:
                validated.repeated += 1
                continue
            others.add((run_id, element.key))
        else:
            element.key = _digest(name, *sorted(one.SerializeToString() for one in data_point.attributes))
            known = series.get((run_id, element.key))
            if known is None:
                known = series[run_id, element.key] = Intervals()
                element.ranges = ((element.first, element.first + count),)
            else:  # a series may have several data points
                element.ranges = tuple(known.missing(element.first, element.first + count))
                if not element.ranges:
                    validated.repeated += 1
                    continue
            known.add(element.first, element.first + count)
        validated.elements.append(element)


def _series_fault(name: str, attributes: dict[str, Any], data_point: NumberDataPoint) -> str:
    """Why a data point of ours cannot be written; empty if it can."""
    tag = attributes.get(semconv.TAG)
    if not isinstance(tag, str):
        return f"a data point without {semconv.TAG}"
    if fault := _run_fault(attributes.get(semconv.RUN_ID)):
        return f"a data point {fault}"
    if type(attributes.get(semconv.RANK, 0)) is not int:
        return f"a data point whose {semconv.RANK} is not a whole number"
    if name == semconv.SCALAR_NONFINITE and attributes.get(semconv.VALUE) not in _NONFINITE:
        return f"a data point whose {semconv.VALUE} is not one of {', '.join(_NONFINITE)}"
    if not has_steps(data_point):
        return f"a data point with a {semconv.STEP} that is not a number"
    return ""


def _run_fault(run_id: object) -> str:
    if not isinstance(run_id, str) or not run_id:
        return f"without {semconv.RUN_ID}"
    return f"whose {semconv.RUN_ID} has over {MOST_RUN_ID} characters" if len(run_id) > MOST_RUN_ID else ""


def _check_others(
    validated: Validated,
    metric: Metric,
    place: tuple[int, int, int],
    info: RunInfo | None,
    others: set[tuple[str, bytes]],
) -> None:
    """Checks metrics of other instruments, which belong to the run that their resource names."""
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data_points = getattr(metric, kind).data_points
    fault = _run_fault(info.id if info is not None else None)
    if info is None or fault:
        validated.reject(f"a data point of another instrument and a resource {fault}", len(data_points))
        return
    system = is_system(metric.name)
    name = f"{metric.name}\0{kind}".encode()
    for point_number, data_point in enumerate(data_points):
        key = _digest(name, data_point.SerializeToString())
        if (info.id, key) in others:
            validated.repeated += 1
            continue
        others.add((info.id, key))
        validated.elements.append(
            Element(
                info.id,
                "system" if system else "scalar",
                "" if system else metric.name,
                (*place, point_number),
                data_point,
                key,
            )
        )


def validate_logs(request: ExportLogsServiceRequest, media: tuple[str, ...] | None) -> Validated:
    """The records of a request.

    Args:
        request: is not changed.
        media: how the URI of a payload may begin, or which folders may hold it; None allows any.
    """
    validated = Validated()
    known: set[tuple[str, bytes]] = set()
    for number, resource in enumerate(request.resource_logs):
        validated.resources.append(resource_run(resource.resource))
        for scope_number, scope in enumerate(resource.scope_logs):
            for record_number, log_record in enumerate(scope.log_records):
                place = (number, scope_number, record_number)
                reason, element = _validated_record(log_record, place, media)
                if element is None:
                    validated.reject(reason)
                elif (element.run_id, element.key) in known:
                    validated.repeated += 1
                else:
                    known.add((element.run_id, element.key))
                    validated.elements.append(element)
    return validated


def _validated_record(
    log_record: LogRecord, place: tuple[int, ...], media: tuple[str, ...] | None
) -> tuple[str, Element | None]:
    """Why a record cannot be written, or the element."""
    if not log_record.event_name.startswith(semconv.EVENT_PREFIX):
        return f"a log record that is not an event {semconv.EVENT_PREFIX}*", None
    record = decode_record(log_record)
    if record is None:
        return f"an event of unknown kind, or without {semconv.RUN_ID}", None
    if fault := _run_fault(record.run_id):
        return f"a record {fault}", None
    if record.kind == "status" and record.attributes.get(semconv.RUN_STATUS) not in _STATUSES:
        return f"a status that is not one of {', '.join(_STATUSES)}", None
    if record.uri and not _is_allowed(record.uri, media):
        return "a payload in a place that this gateway does not read", None
    if record.kind == "run":
        try:
            run_info(record)
        except (OSError, ValueError, RecursionError) as error:
            return f"a run's description that cannot be read: {error}"[:200], None
    key = _digest(b"", log_record.SerializeToString())
    return "", Element(record.run_id, record.kind, record.tag, place, log_record, key, record=record)


def _is_allowed(uri: str, media: tuple[str, ...] | None) -> bool:
    """Whether a payload's file may be read. Else a sender could read any file of this machine."""
    if media is None:
        return True
    path = local_path(uri)
    for allowed in media:
        folder = local_path(allowed)
        if path is not None and folder is not None:
            if path.is_absolute() and path.resolve().is_relative_to(folder.resolve()):
                return True
        elif path is None and folder is None:
            parts, start = urlsplit(uri), allowed.rstrip("/") + "/"
            if uri.startswith(start) and ".." not in Path(parts.path).parts and "%" not in uri:
                return True
    return False


def _digest(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=12)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
