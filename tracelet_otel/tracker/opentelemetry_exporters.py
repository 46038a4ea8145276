"""What a tracker is to OpenTelemetry: a metric exporter and a log exporter.

They are what a user's own ``PeriodicExportingMetricReader`` takes, and what ``OTEL_METRICS_EXPORTER``
loads under another distribution. Both raise nothing at import or construction. A tracker has a subclass of
each, which only names it.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

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


class _ExporterOnDemand:
    """A tracker's exporter, made and connected at its first use, for one thread at a time."""

    def __init__(self, name: str, make: Callable[[], TrackerExporter]) -> None:
        self._name = name
        self._make = make
        self._exporter: TrackerExporter | None = None
        self._lock = threading.Lock()

    def use(self, use: Callable[[TrackerExporter], None]) -> bool:
        """Calls ``use`` with the exporter; False, logged once a minute, if that does not work."""
        try:
            with self._lock:
                if self._exporter is None:
                    exporter = self._make()
                    exporter.load()
                    exporter.connect()
                    self._exporter = exporter
                use(self._exporter)
        except Exception as error:
            log_once(self._name, logging.WARNING, "%s: export failed: %s", self._name, error)
            return False
        return True

    def close(self) -> None:
        """Closes the runs that the exporter opened, and its client."""
        try:
            with self._lock:
                exporter, self._exporter = self._exporter, None
                if exporter is not None:
                    exporter.close_all()
                    exporter.close()
        except Exception as error:
            log_once(self._name, logging.WARNING, "%s: closing failed: %s", self._name, error)


class TrackerMetricExporter(MetricExporter):
    """Exports any OpenTelemetry metrics to one tracker.

    Points of the training gauge land with their exact tag, step and time. Other gauges and sums land
    as a metric of their name, a histogram as ``.count``, ``.sum``, ``.min`` and ``.max``; their step
    counts the exports. The run is closed as finished by :meth:`shutdown`.

    Args:
        arguments: the tracker's.
        run: the run; None is that of ``TRACELET_RUN_ID`` and its like, or a new one.
        options: the tracker's.
    """

    tracker: ClassVar[Callable[..., Tracker]]

    def __init__(self, *arguments: Any, run: RunInfo | None = None, **options: Any) -> None:
        super().__init__()
        run = run or run_from_environment()
        make_tracker = type(self).tracker
        self._on_demand = _ExporterOnDemand(
            type(self).__name__,
            lambda: TrackerExporter(make_tracker(*arguments, **options), run=run, opens_for_plain=True),
        )

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Writes the metrics durably; FAILURE, logged once a minute, if that does not work."""

        def write(exporter: TrackerExporter) -> None:
            for chunk in splitting.split(metrics_data):
                exporter.write_metrics(encoding.encode(chunk.data).SerializeToString())

        return MetricExportResult.SUCCESS if self._on_demand.use(write) else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is held back: every export is durable when it returns."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Closes the runs that this exporter opened."""
        self._on_demand.close()


class TrackerLogExporter(LogRecordExporter):
    """Exports this project's records (events named ``tracelet.*``) to one tracker; skips all other logs.

    Args:
        arguments: the tracker's.
        options: the tracker's.
    """

    tracker: ClassVar[Callable[..., Tracker]]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        make_tracker = type(self).tracker
        self._on_demand = _ExporterOnDemand(
            type(self).__name__, lambda: TrackerExporter(make_tracker(*arguments, **options))
        )

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Writes the records durably; FAILURE, logged once a minute, if that does not work."""

        def write(exporter: TrackerExporter) -> None:
            for part in splitting.split_logs(batch):
                exporter.write_logs(encoding.encode_records(part).SerializeToString())

        return LogRecordExportResult.SUCCESS if self._on_demand.use(write) else LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 10_000) -> bool:
        """Nothing is held back: every export is durable when it returns."""
        return True

    def shutdown(self) -> None:
        """Does nothing: runs are closed by their status records."""
