"""Validates a request: its data points and records, each with its run and its identity.

The identity of a data point with a sequence number is its series and the numbers of its exemplars, so that a
part of it can be a duplicate. The identity of everything else is a digest of its bytes.

What is refused here is refused for ever: no run can have it, or not with its meaning.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import urlsplit

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint

from tracelet_otel import semconv
from tracelet_otel.delivery.spool.media import local_path
from tracelet_otel.otlp.decoding import (
    NONFINITE,
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
_NONFINITE: Final = tuple(NONFINITE)  # a sender's value may be a list, which no dict can be asked for
_STATUSES: Final = get_args(semconv.Status)

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


class Validated:
    """The valid content of a request, and what was refused."""

    def __init__(self) -> None:
        self.elements: list[Element] = []
        self.rejected = 0
        """Data points or records."""
        self.points = 0
        """Logged points in the request."""
        self.rejected_points = 0
        self.repeated = 0
        """Data points or records that are in the request twice."""
        self.resources: list[RunInfo | None] = []
        """The runs that the resources describe, by the resource's index."""
        self._reasons: Counter[str] = Counter()
        self._series: defaultdict[tuple[str, bytes], Intervals] = defaultdict(Intervals)
        self._others: set[tuple[str, bytes]] = set()

    def add(self, element: Element) -> None:
        """Adds what of an element is not in the request already."""
        identity = element.run_id, element.key
        if element.first is not None:
            known = self._series[identity]  # a series may have several data points
            element.ranges = tuple(known.missing(element.first, element.first + element.points))
            known.add(element.first, element.first + element.points)
            is_new = bool(element.ranges)
        else:
            is_new = identity not in self._others
            self._others.add(identity)
        if is_new:
            self.elements.append(element)
        else:
            self.repeated += 1

    def reject(self, reason: str, count: int = 1, points: int = 0) -> None:
        """Counts what is refused."""
        if count:
            self.rejected += count
            self.rejected_points += points
            self._reasons[reason] += count

    @property
    def message(self) -> str:
        """Why something was refused."""
        return "; ".join(f"{count}: {reason}" for reason, count in self._reasons.items())


def validate_metrics(request: ExportMetricsServiceRequest) -> Validated:
    """The data points of a request, without those of our gauge that have no new points."""
    validated = Validated()
    for number, resource in enumerate(request.resource_metrics):
        info = resource_run(resource.resource)
        validated.resources.append(info)
        for scope_number, scope in enumerate(resource.scope_metrics):
            for metric_number, metric in enumerate(scope.metrics):
                kind = metric.WhichOneof("data")
                place = number, scope_number, metric_number
                if kind is not None and metric.name in _KINDS:
                    _check_series(validated, metric, kind, place)
                elif kind is not None:
                    _check_others(validated, metric, kind, place, info)
    return validated


def _check_series(validated: Validated, metric: Metric, kind: str, place: tuple[int, ...]) -> None:
    data_points: Sequence[NumberDataPoint] = getattr(metric, kind).data_points
    if kind != _KINDS[metric.name]:
        validated.reject(f"{metric.name} is a {kind}, not a {_KINDS[metric.name]}", len(data_points))
        return
    name = metric.name.encode()
    for point_number, data_point in enumerate(data_points):
        count = len(data_point.exemplars)
        if not count:
            continue
        validated.points += count
        attributes = decode_attributes(data_point.attributes)
        reason = _series_fault(metric.name, attributes, data_point)
        if reason:
            validated.reject(reason, points=count)
            continue
        first = first_number(data_point)
        if first is None:
            key = _digest(name, data_point.SerializeToString())
        else:
            key = _digest(name, *sorted(one.SerializeToString() for one in data_point.attributes))
        run_id, tag = str(attributes[semconv.RUN_ID]), str(attributes[semconv.TAG])
        validated.add(Element(run_id, "scalar", tag, (*place, point_number), data_point, key, count, first))


def _series_fault(name: str, attributes: dict[str, Any], data_point: NumberDataPoint) -> str:
    """Why a data point of ours cannot be written; empty if it can."""
    if not isinstance(attributes.get(semconv.TAG), str):
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
    validated: Validated, metric: Metric, kind: str, place: tuple[int, ...], info: RunInfo | None
) -> None:
    """Checks metrics of other instruments, which belong to the run that their resource names."""
    data_points = getattr(metric, kind).data_points
    fault = _run_fault(info.id if info is not None else None)
    if info is None or fault:
        validated.reject(f"a data point of another instrument and a resource {fault}", len(data_points))
        return
    element_kind, tag = ("system", "") if is_system(metric.name) else ("scalar", metric.name)
    name = f"{metric.name}\0{kind}".encode()
    for point_number, data_point in enumerate(data_points):
        key = _digest(name, data_point.SerializeToString())
        validated.add(Element(info.id, element_kind, tag, (*place, point_number), data_point, key))


def validate_logs(request: ExportLogsServiceRequest, media: tuple[str, ...] | None) -> Validated:
    """The records of a request.

    ``media`` is how the URI of a payload may begin, or which folders may hold it; None allows any.
    """
    validated = Validated()
    for number, resource in enumerate(request.resource_logs):
        validated.resources.append(resource_run(resource.resource))
        for scope_number, scope in enumerate(resource.scope_logs):
            for record_number, log_record in enumerate(scope.log_records):
                record = decode_record(log_record)
                fault = _record_fault(log_record, record, media)
                if record is None or fault:
                    validated.reject(fault)
                    continue
                key = _digest(b"", log_record.SerializeToString())
                place = number, scope_number, record_number
                validated.add(
                    Element(record.run_id, record.kind, record.tag, place, log_record, key, record=record)
                )
    return validated


def _record_fault(log_record: LogRecord, record: Record | None, media: tuple[str, ...] | None) -> str:
    """Why a record cannot be written; empty if it can."""
    if not log_record.event_name.startswith(semconv.EVENT_PREFIX):
        return f"a log record that is not an event {semconv.EVENT_PREFIX}*"
    if record is None:
        return f"an event of unknown kind, or without {semconv.RUN_ID}"
    if fault := _run_fault(record.run_id):
        return f"a record {fault}"
    if record.kind == "status" and record.attributes.get(semconv.RUN_STATUS) not in _STATUSES:
        return f"a status that is not one of {', '.join(_STATUSES)}"
    if record.uri and not _is_allowed(record.uri, media):
        return "a payload in a place that this gateway does not read"
    if record.kind == "run":
        try:
            run_info(record)
        except (OSError, ValueError, RecursionError) as error:
            return f"a run's description that cannot be read: {error}"[:200]
    return ""


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
