"""Both TensorBoard writers, hooked, and what is recorded: the SDK is the real one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.support import event_files
from tracelet_otel import recording, semconv
from tracelet_otel.instrumentation.tensorboard.instrumentor import (
    TensorBoardInstrumentor,
    TensorBoardXInstrumentor,
)
from tracelet_otel.recording.reservoir import EXEMPLAR_FILTER, lossless_views
from tracelet_otel.recording.run import Run, RunScope


class CapturedPoint(NamedTuple):
    run_id: str
    tag: str
    step: int
    value: float
    time_unix_nano: int


class CapturedRecord(NamedTuple):
    run_id: str
    kind: str
    tag: str
    step: int | None
    payload: bytes
    mime_type: str
    attributes: dict[str, Any]
    time_unix_nano: int

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Captured:
    """What is recorded while it is installed."""

    def __init__(self) -> None:
        self.scope = RunScope(Run())
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider([self._reader], views=lossless_views(), exemplar_filter=EXEMPLAR_FILTER)
        self._logs = InMemoryLogRecordExporter()
        loggers = LoggerProvider()
        loggers.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        self._loggers = loggers
        self._points: list[CapturedPoint] = []
        recording.install(recording.Recorder(self._meters, loggers, self.scope))

    def points(self) -> list[CapturedPoint]:
        """All points until now; in order within a tag."""
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        self._keep(point)
        return self._points

    def _keep(self, point: Any) -> None:
        attributes = point.attributes
        nonfinite = attributes.get(semconv.VALUE)
        for exemplar in point.exemplars:
            self._points.append(
                CapturedPoint(
                    attributes[semconv.RUN_ID],
                    attributes[semconv.TAG],
                    exemplar.filtered_attributes[semconv.STEP],
                    float(nonfinite) if nonfinite else exemplar.value,
                    exemplar.time_unix_nano,
                )
            )

    def by_tag(self) -> dict[str, list[tuple[int, float]]]:
        """(step, value) of every point, by tag."""
        found: dict[str, list[tuple[int, float]]] = {}
        for point in self.points():
            found.setdefault(point.tag, []).append((point.step, point.value))
        return found

    def records(self, kind: str = "") -> list[CapturedRecord]:
        """All records in order, or those of one kind; the writer's folder is in :meth:`log_dirs`."""
        found: list[CapturedRecord] = []
        for exported in self._logs.get_finished_logs():
            log: Any = exported.log_record
            attributes = dict(log.attributes)
            record = CapturedRecord(
                attributes.pop(semconv.RUN_ID),
                log.event_name.removeprefix(semconv.EVENT_PREFIX),
                attributes.pop(semconv.TAG),
                attributes.pop(semconv.STEP, None),
                log.body,
                attributes.pop(semconv.MIME_TYPE, ""),
                attributes,
                log.timestamp,
            )
            if record.kind == kind or (not kind and record.kind != "tags"):
                found.append(record)
        return found

    def one(self, kind: str) -> CapturedRecord:
        """The only record, which is of this kind."""
        (record,) = self.records()
        assert record.kind == kind
        return record

    def log_dirs(self) -> list[tuple[str, str]]:
        """(run id, folder) of each first folder."""
        return [(record.run_id, record.json["tensorboard.log_dir"]) for record in self.records("tags")]

    def close(self) -> None:
        recording.install(None)
        self._meters.shutdown()
        self._loggers.shutdown()


@pytest.fixture
def captured() -> Iterator[Captured]:
    """What is recorded in the test."""
    captured = Captured()
    yield captured
    captured.close()


class Library:
    """One of the two libraries."""

    def __init__(self, name: str) -> None:
        self.name = name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name == "torch":
                from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
                from tensorboard.summary.writer import event_file_writer
                from torch.utils.tensorboard import writer

                self.instrumentor: Any = TensorBoardInstrumentor()
            else:
                from tensorboardX import event_file_writer, writer
                from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

                self.instrumentor = TensorBoardXInstrumentor()
        self.SummaryWriter: Any = writer.SummaryWriter
        self.EventFileWriter: Any = event_file_writer.EventFileWriter
        self.Event: Any = Event

    def points(self, folder: Path) -> dict[str, list[tuple[int, float]]]:
        """(step, value) of every simple scalar in the folder's files, by tag."""
        return {
            tag: [(point.step, point.value) for point in points]
            for tag, points in event_files.points(folder).items()
        }


@pytest.fixture(params=["torch", "tensorboardX"])
def library(request: pytest.FixtureRequest) -> Iterator[Library]:
    """Each library, hooked."""
    library = Library(request.param)
    library.instrumentor.instrument()
    yield library
    library.instrumentor.uninstrument()
