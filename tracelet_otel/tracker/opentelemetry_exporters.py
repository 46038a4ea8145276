"""The faces that a tracker shows to OpenTelemetry: a metric exporter and a log exporter.

They are what a user's own ``PeriodicExportingMetricReader`` takes, and what ``OTEL_METRICS_EXPORTER``
loads under another distribution. Both raise nothing at import or construction.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

from tracelet_otel.foundation.guard import log_once, logging
from tracelet_otel.otlp import encoding, splitting
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.tracker.exporter import TrackerExporter
from tracelet_otel.tracker.interface import Tracker


def run_from_environment() -> RunInfo:
    """The run of an exporter that is used alone: from ``TRACELET_*``, with a new id if none is set."""
    return RunInfo(
        id=os.environ.get("TRACELET_RUN_ID") or uuid.uuid4().hex,
        name=os.environ.get("TRACELET_RUN_NAME", ""),
        project=os.environ.get("TRACELET_PROJECT", ""),
        experiment=os.environ.get("TRACELET_EXPERIMENT", ""),
    )


class TrackerMetricExporter(MetricExporter):
    """Exports any OpenTelemetry metrics to one tracker.

    Points of the training gauge land with their exact tag, step and time. Other gauges and sums land
    as a metric of their name, a histogram as ``.count``, ``.sum``, ``.min`` and ``.max``; their step
    counts the exports. The run is closed as finished by :meth:`shutdown`.
    """

    def __init__(self, make_tracker: Callable[[], Tracker], run: RunInfo | None = None) -> None:
        super().__init__()
        self._make_tracker = make_tracker
        self._run = run or run_from_environment()
        self._exporter: TrackerExporter | None = None
        self._lock = threading.Lock()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Writes the metrics durably; FAILURE, logged once a minute, if that does not work."""
        try:
            with self._lock:
                if self._exporter is None:
                    exporter = TrackerExporter(self._make_tracker(), run=self._run, opens_for_plain=True)
                    exporter.load()
                    exporter.connect()
                    self._exporter = exporter
                for chunk in splitting.split(metrics_data):
                    self._exporter.write_metrics(encoding.encode(chunk.data).SerializeToString())
        except Exception as error:
            log_once(
                type(self).__name__, logging.WARNING, "%s: export failed: %s", type(self).__name__, error
            )
            return MetricExportResult.FAILURE
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is held back: every export is durable when it returns."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Closes the runs that this exporter opened."""
        try:
            with self._lock:
                if self._exporter is not None:
                    self._exporter.close_all()
                    self._exporter.close()
                    self._exporter = None
        except Exception as error:
            log_once(
                type(self).__name__, logging.WARNING, "%s: closing failed: %s", type(self).__name__, error
            )


class TrackerLogExporter(LogRecordExporter):
    """Exports this project's records (events named ``tracelet.*``) to one tracker; skips all other logs."""

    def __init__(self, make_tracker: Callable[[], Tracker]) -> None:
        self._make_tracker = make_tracker
        self._exporter: TrackerExporter | None = None
        self._lock = threading.Lock()

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Writes the records durably; FAILURE, logged once a minute, if that does not work."""
        try:
            with self._lock:
                if self._exporter is None:
                    exporter = TrackerExporter(self._make_tracker())
                    exporter.load()
                    exporter.connect()
                    self._exporter = exporter
                for part in splitting.split_logs(batch):
                    self._exporter.write_logs(encoding.encode_records(part).SerializeToString())
        except Exception as error:
            log_once(
                type(self).__name__, logging.WARNING, "%s: export failed: %s", type(self).__name__, error
            )
            return LogRecordExportResult.FAILURE
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        """Nothing is held back: every export is durable when it returns."""
        return True

    def shutdown(self) -> None:
        """Runs are closed by their status records."""
