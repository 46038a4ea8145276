"""The contents of event files as OTLP: decoded as live instrumentation does, encoded as the pipeline does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
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
from tracelet_otel.cli.event_folders import Damage, EventFile, EventRun, embeddings, events, tag_of
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool.json_lines import batch_of
from tracelet_otel.instrumentation.tensorboard.events import Scalar, Undecodable, decode, time_unix_nano
from tracelet_otel.otlp import encoding, splitting
from tracelet_otel.otlp.run_resources import described
from tracelet_otel.recording.logged import LoggedEvent, json_event
from tracelet_otel.recording.media import MAX_INLINE_BYTES, MediaFolder
from tracelet_otel.recording.recorder import SCOPE_NAME
from tracelet_otel.recording.reservoir import KeptPoint, shortest_float32
from tracelet_otel.recording.run import Run
from tracelet_otel.secrets.redaction import redacted_json
from tracelet_otel.version import VERSION

_SCOPE: Final = InstrumentationScope(SCOPE_NAME, VERSION)
_UNLIMITED: Final = LogRecordLimits(*[LogRecordLimits.UNSET] * 4)
_VALUE_CODES: Final = {"": 0, "NaN": 1, "Infinity": 2, "-Infinity": 3}


@dataclass
class EventRunReader:
    """One run's event files as batches, in the order in which they were written.

    A point is numbered within its tag and file, so that reading the files again, and longer ones, gives
    every point the number that it had.
    """

    event_run: EventRun
    run: Run
    """What it becomes."""
    damage: Damage
    """To which is added what cannot be read."""
    media: MediaFolder | None = None
    """Where payloads over 1 MiB go; None leaves them in the batches."""
    done: int = 0
    """Bytes that were read so far."""

    def __post_init__(self) -> None:
        self._last_time = 0
        """Wall time of the last event, in nanoseconds since 1970; 0 before there is one."""
        self._resource = Resource(described(self.run))
        self._records: list[ReadableLogRecord] = []
        self._payload_bytes = 0
        self._series: dict[tuple[str, str], list[KeptPoint]] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._points = 0

    def batches(self) -> Iterator[Batch]:
        """Everything, from the run's description to its end."""
        begun = False
        for file in self.event_run.files:
            self._numbers = {}
            base = self.done
            name = f"{file.folder}/{file.path.name}".encode(errors="replace")
            numbers = (int.from_bytes(hashlib.sha256(name).digest()[:4], "big") >> 4) << 34
            metadata = _Metadata()
            for event, done in events(file, self.damage):
                self.done = base + done
                self._last_time = time_unix_nano(event) or self._last_time
                if not begun:
                    begun = True
                    self._begin()
                self._take(event, file, metadata, numbers)
                if self._is_full:
                    yield from self._flush()
            self.done = base + file.size
        if not begun:
            return
        folders = dict.fromkeys((file.path.parent, file.folder) for file in self.event_run.files)
        for folder, relative in folders:
            for content, time in embeddings(folder, self.damage):
                self._event(content, time, relative)
                if self._is_full:
                    yield from self._flush()
        yield from self._flush()
        self._event(LoggedEvent("status", attributes={semconv.RUN_STATUS: "finished"}), self._last_time)
        yield from self._flush()

    @property
    def _is_full(self) -> bool:
        most_points, most_bytes = splitting.MAX_POINTS_PER_REQUEST, splitting.MAX_LOG_BYTES_PER_REQUEST
        return self._points >= most_points or self._payload_bytes >= most_bytes

    def _begin(self) -> None:
        folder = str(self.event_run.folder.absolute()).encode(errors="replace").decode()
        tags = json.dumps({semconv.TENSORBOARD_LOG_DIR: folder}).encode("ascii")
        self._event(json_event("run", self.run.description()), self._last_time)
        self._event(json_event("tags", tags), self._last_time)

    def _take(self, event: Any, file: EventFile, metadata: dict[str, Any], numbers: int) -> None:
        time = time_unix_nano(event) or self._last_time
        for item in decode(event, metadata):
            if isinstance(item, Scalar):
                self._point(item, tag_of(file.folder, item.tag), event.step, time, numbers)
            elif isinstance(item, Undecodable):
                self.damage.undecodable += 1
                self._event(item.record, time, file.folder)
            else:
                payload = redacted_json(item.payload or b"") if item.kind == "params" else item.payload
                self._event(item._replace(payload=payload), time, file.folder)

    def _point(self, scalar: Scalar, tag: str, step: int, time: int, numbers: int) -> None:
        value = scalar.value
        name = semconv.nonfinite_name(value)
        number = self._numbers.get((tag, name), 0)
        self._numbers[tag, name] = number + 1
        kept = self._series.setdefault((tag, name), [])
        attributes = {semconv.STEP: step}
        if not kept:
            attributes[semconv.SEQUENCE] = numbers + (_VALUE_CODES[name] << 32) + number
        value = 1 if name else shortest_float32(value) if scalar.single else value
        kept.append(KeptPoint(attributes, value, time))
        self._points += 1

    def _event(self, content: LoggedEvent, time: int, folder: str = "") -> None:
        attributes: dict[str, AnyValue] = {
            **self.run.identity(),
            semconv.TAG: tag_of(folder, content.tag) if content.tag else "",
            **(content.attributes or {}),
        }
        if content.step is not None:
            attributes[semconv.STEP] = content.step
        if content.mime_type:
            attributes[semconv.MIME_TYPE] = content.mime_type
        payload = content.payload
        if payload is not None and len(payload) > MAX_INLINE_BYTES and self.media is not None:
            stored = self.media.store(payload)
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
        self._records.append(ReadableLogRecord(record, self._resource, _SCOPE, limits=_UNLIMITED))
        self._payload_bytes += 512 + len(payload or b"")

    def _flush(self) -> Iterator[Batch]:
        """Records first: a run's description comes before its points."""
        records, self._records, self._payload_bytes = self._records, [], 0
        for part in splitting.split_logs(records):
            yield batch_of(encoding.encode_records(part))
        series, self._series, self._points = self._series, {}, 0
        if series:
            for chunk in splitting.split(self._metrics(series)):
                yield batch_of(encoding.encode(chunk.data))

    def _metrics(self, series: dict[tuple[str, str], list[KeptPoint]]) -> MetricsData:
        found: dict[str, list[NumberDataPoint]] = {}
        for (tag, name), kept in series.items():
            attributes: dict[str, Any] = {semconv.TAG: tag, **self.run.identity()}
            value = kept[-1].value
            if name:
                attributes[semconv.VALUE] = name
                value = self._numbers.get((tag, name), len(kept))
            exemplars = cast("list[Exemplar]", kept)
            point = NumberDataPoint(attributes, 0, kept[-1].time_unix_nano, value, exemplars)
            found.setdefault(semconv.SCALAR_NONFINITE if name else semconv.SCALAR, []).append(point)
        metrics: list[Metric] = []
        for name, points in sorted(found.items()):
            total = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
            metrics.append(Metric(name, None, None, Gauge(points) if name == semconv.SCALAR else total))
        return MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


class _Metadata(dict[str, Any]):
    """Metadata by tag, each a copy: a part of a message keeps all of the message in memory."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self or self[key] != value:
            copy: Any = type(value)()
            copy.CopyFrom(value)
            super().__setitem__(key, copy)
