"""MLflow's OpenTelemetry exporters, by which ``mlflow`` is known to OpenTelemetry."""

from __future__ import annotations

from tracelet_otel.tracker.opentelemetry_exporters import TrackerLogExporter, TrackerMetricExporter
from tracelet_otel_exporters.mlflow.tracker import MLflowTracker


class MLflowMetricExporter(TrackerMetricExporter):
    """OpenTelemetry metrics into one MLflow run. Arguments: ``run`` and those of ``MLflowTracker``."""

    tracker = MLflowTracker


class MLflowLogExporter(TrackerLogExporter):
    """Exports this project's records into MLflow. Arguments: those of ``MLflowTracker``."""

    tracker = MLflowTracker
