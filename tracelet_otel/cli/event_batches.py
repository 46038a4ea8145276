"""The contents of event files as OTLP: decoded as live instrumentation does, encoded as the pipeline does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from math import isfinite, isnan
from typing import Any, Final, cast

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk.metrics import Exemplar
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
from opentelemetry.util.types import AnyValue

from tracelet_otel import semconv
from tracelet_otel.cli.event_folders import Damage, EventFile, EventRun, events, tag_of
from tracelet_otel.cli.projector import embeddings
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.instrumentation.tensorboard.events import (
    Content,
    Scalar,
    Undecodable,
    decode,
    time_unix_nano,
)
from tracelet_otel.otlp import encoding, splitting
from tracelet_otel.otlp.run_resources import described
from tracelet_otel.recording.media import MAX_INLINE_BYTES, MediaFolder
from tracelet_otel.recording.recorder import SCOPE_NAME
from tracelet_otel.recording.reservoir import KeptPoint, shortest_float32
from tracelet_otel.recording.run import Run
from tracelet_otel.secrets.redaction import redacted_json
from tracelet_otel.version import VERSION

MOST_POINTS: Final = splitting.MAX_POINTS_PER_REQUEST
MOST_BYTES: Final = splitting.MAX_LOG_BYTES_PER_REQUEST
"""Bytes of payloads that wait to be sent."""

_SCOPE: Final = InstrumentationScope(SCOPE_NAME, VERSION)
_UNLIMITED: Final = LogRecordLimits(*[LogRecordLimits.UNSET] * 4)
_JSON: Final = "application/json"
_VALUE_CODES: Final = {"": 0, "NaN": 1, "Infinity": 2, "-Infinity": 3}


class EventRunReader:
    """One run's event files as batches, in the order in which they were written.

    A point is numbered within its tag and file, so that reading the files again, and longer ones, gives
    every point the number that it had.

    Args:
        run: the folder.
        project: to file it under.
        experiment: inside the project.
        media: where payloads over 1 MiB go; None leaves them in the batches.
    """

    def __init__(
        self, run: EventRun, project: str = "", experiment: str = "", media: MediaFolder | None = None
    ) -> None:
        self.source = run
        self.damage = Damage()
        self.done = 0
        """Bytes that were read so far."""
        self.last_time = 0
        """Wall time of the last event, in nanoseconds since 1970; 0 before there is one."""
        self.undecodable = 0
        """Values that are kept as they are, as artifacts."""
        self._media = media
        self._run = Run(id=run.id, name=run.name, project=project, experiment=experiment)
        self._resource = Resource(described(self._run))
        self._records: list[ReadableLogRecord] = []
        self._payload_bytes = 0
        self._series: dict[tuple[str, str], list[KeptPoint]] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._points = 0

    def batches(self) -> Iterator[Batch]:
        """Everything, from the run's description to its end."""
        begun = False
        for file in self.source.files:
            self._numbers = {}
            base, self.done = self.done, self.done
            name = f"{file.folder}/{file.path.name}".encode(errors="replace")
            numbers = (int.from_bytes(hashlib.sha256(name).digest()[:4], "big") >> 4) << 34
            metadata = _Metadata()
            for event in events(file, self.damage, lambda done, base=base: self._at(base + done)):
                self.last_time = time_unix_nano(event) or self.last_time
                if not begun:
                    begun = True
                    self._begin()
                self._take(event, file, metadata, numbers)
                if self._points >= MOST_POINTS or self._payload_bytes >= MOST_BYTES:
                    yield from self._flush()
            self.done = base + file.size
        if not begun:
            return
        folders = dict.fromkeys((file.path.parent, file.folder) for file in self.source.files)
        for folder, relative in folders:
            for content, time in embeddings(folder, self.damage):
                self._add(content, relative, time)
                if self._payload_bytes >= MOST_BYTES:
                    yield from self._flush()
        yield from self._flush()
        self._event(Content("status", "", None, b"", "", {semconv.RUN_STATUS: "finished"}), self.last_time)
        for batch in self._flush():
            yield Batch(logs=batch.logs, records=batch.records, size=batch.size, ends=True)

    def _at(self, done: int) -> None:
        self.done = done

    def _begin(self) -> None:
        self._event(Content("run", "", None, self._run.description(), _JSON, {}), self.last_time)
        folder = str(self.source.folder.absolute()).encode(errors="replace").decode()
        payload = json.dumps({semconv.TENSORBOARD_LOG_DIR: folder}).encode("ascii")
        self._event(Content("tags", "", None, payload, _JSON, {}), self.last_time)

    def _take(self, event: Any, file: EventFile, metadata: dict[str, Any], numbers: int) -> None:
        time = time_unix_nano(event) or self.last_time
        for item in decode(event, metadata):
            if isinstance(item, Scalar):
                self._point(tag_of(file.folder, item.tag), item.value, item.single, event.step, time, numbers)
            elif isinstance(item, Undecodable):
                self.undecodable += 1
                self._add(item.content, file.folder, time)
            elif item.kind == "params":
                self._add(item._replace(payload=redacted_json(item.payload)), file.folder, time)
            else:
                self._add(item, file.folder, time)

    def _point(self, tag: str, value: float, single: bool, step: int, time: int, numbers: int) -> None:
        name = "" if isfinite(value) else "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
        series = (tag, name)
        number = self._numbers.get(series, 0)
        self._numbers[series] = number + 1
        kept = self._series.setdefault(series, [])
        attributes = {semconv.STEP: step}
        if not kept:
            attributes[semconv.SEQUENCE] = numbers + (_VALUE_CODES[name] << 32) + number
        value = 1 if name else shortest_float32(value) if single else value
        kept.append(KeptPoint(attributes, value, time))
        self._points += 1

    def _add(self, content: Content, folder: str, time: int) -> None:
        self._event(content._replace(tag=tag_of(folder, content.tag) if content.tag else ""), time)

    def _event(self, content: Content, time: int) -> None:
        attributes: dict[str, AnyValue] = {
            **self._run.identity(),
            semconv.TAG: content.tag,
            **content.attributes,
        }
        if content.step is not None:
            attributes[semconv.STEP] = content.step
        if content.mime_type:
            attributes[semconv.MIME_TYPE] = content.mime_type
        payload = None if content.kind == "status" else content.payload
        if payload is not None and len(payload) > MAX_INLINE_BYTES and self._media is not None:
            stored = self._media.store(payload)
            if stored is not None:
                attributes[semconv.PAYLOAD_URI], attributes[semconv.PAYLOAD_SHA256] = stored
                attributes[semconv.PAYLOAD_SIZE] = len(payload)
                payload = None
        record = LogRecord(
            timestamp=time,
            observed_timestamp=time,  # not now: reading the files again gives the same
            severity_number=SeverityNumber.INFO,
            event_name=semconv.EVENT_PREFIX + content.kind,
            body=payload,
            attributes=attributes,
        )
        self._records.append(
            ReadableLogRecord(
                log_record=record, resource=self._resource, instrumentation_scope=_SCOPE, limits=_UNLIMITED
            )
        )
        self._payload_bytes += 512 + (len(payload) if payload is not None else 0)

    def _flush(self) -> Iterator[Batch]:
        """Records first: a run's description comes before its points."""
        records, self._records, self._payload_bytes = self._records, [], 0
        for part in splitting.split_logs(records):
            kinds = [(r.log_record.event_name or "").removeprefix(semconv.EVENT_PREFIX) for r in part]
            data = encoding.encode_records(part).SerializeToString()
            count = sum(1 for kind in kinds if kind not in semconv.ATTENDANTS)
            yield Batch(logs=data, records=count, size=len(data))
        series, self._series, self._points = self._series, {}, 0
        if series:
            for chunk in splitting.split(self._metrics(series)):
                data = encoding.encode(chunk.data).SerializeToString()
                yield Batch(metrics=data, points=chunk.points, size=len(data))

    def _metrics(self, series: dict[tuple[str, str], list[KeptPoint]]) -> MetricsData:
        finite: list[NumberDataPoint] = []
        other: list[NumberDataPoint] = []
        for (tag, name), points in series.items():
            attributes: dict[str, Any] = {semconv.TAG: tag, **self._run.identity()}
            exemplars = cast("list[Exemplar]", points)
            newest = points[-1]
            if name:
                attributes[semconv.VALUE] = name
                value = self._numbers.get((tag, name), len(points))
                other.append(NumberDataPoint(attributes, 0, newest.time_unix_nano, value, exemplars))
            else:
                finite.append(NumberDataPoint(attributes, 0, newest.time_unix_nano, newest.value, exemplars))
        metrics: list[Metric] = []
        if finite:
            metrics.append(Metric(semconv.SCALAR, None, None, Gauge(finite)))
        if other:
            total = Sum(other, AggregationTemporality.CUMULATIVE, is_monotonic=True)
            metrics.append(Metric(semconv.SCALAR_NONFINITE, None, None, total))
        return MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


class _Metadata(dict[str, Any]):
    """Metadata by tag, each a copy: a part of a message keeps all of the message in memory."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self or self[key] != value:
            copy: Any = type(value)()
            copy.CopyFrom(value)
            super().__setitem__(key, copy)
