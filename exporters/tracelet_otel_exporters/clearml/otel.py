"""ClearML's OpenTelemetry exporters, by which ``clearml`` is known to OpenTelemetry."""

from __future__ import annotations

from pathlib import Path

from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.tracker.opentelemetry_exporters import TrackerLogExporter, TrackerMetricExporter
from tracelet_otel_exporters.clearml.tracker import ClearMLTracker


class ClearMLMetricExporter(TrackerMetricExporter):
    """Exports OpenTelemetry metrics into one ClearML task.

    Args:
        config_file: a ``clearml.conf``; None is what ClearML itself would take.
        run: the run; None is that of ``TRACELET_RUN_ID`` and its like, or a new one.
    """

    def __init__(self, config_file: str | Path | None = None, run: RunInfo | None = None) -> None:
        super().__init__(lambda: ClearMLTracker(config_file), run)


class ClearMLLogExporter(TrackerLogExporter):
    """Exports this project's records into ClearML.

    Args:
        config_file: a ``clearml.conf``; None is what ClearML itself would take.
    """

    def __init__(self, config_file: str | Path | None = None) -> None:
        super().__init__(lambda: ClearMLTracker(config_file))
