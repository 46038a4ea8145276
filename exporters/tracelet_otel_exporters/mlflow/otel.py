"""MLflow's OpenTelemetry exporters, by which ``mlflow`` is known to OpenTelemetry."""

from __future__ import annotations

from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.tracker.opentelemetry_exporters import TrackerLogExporter, TrackerMetricExporter
from tracelet_otel_exporters.mlflow.tracker import MLflowTracker


class MLflowMetricExporter(TrackerMetricExporter):
    """Exports OpenTelemetry metrics into one MLflow run.

    Args:
        tracking_uri: MLflow's; None is what MLflow itself would take.
        run: the run; None is that of ``TRACELET_RUN_ID`` and its like, or a new one.
    """

    def __init__(self, tracking_uri: str | None = None, run: RunInfo | None = None) -> None:
        super().__init__(lambda: MLflowTracker(tracking_uri), run)


class MLflowLogExporter(TrackerLogExporter):
    """Exports this project's records into MLflow.

    Args:
        tracking_uri: MLflow's; None is what MLflow itself would take.
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        super().__init__(lambda: MLflowTracker(tracking_uri))
