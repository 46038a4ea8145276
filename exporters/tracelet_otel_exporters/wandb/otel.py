"""W&B's OpenTelemetry exporters, by which ``wandb`` is known to OpenTelemetry."""

from __future__ import annotations

from tracelet_otel.tracker.opentelemetry_exporters import TrackerLogExporter, TrackerMetricExporter
from tracelet_otel_exporters.wandb.tracker import WandbTracker


class WandbMetricExporter(TrackerMetricExporter):
    """OpenTelemetry metrics into one W&B run. Arguments: ``run`` and those of ``WandbTracker``."""

    tracker = WandbTracker


class WandbLogExporter(TrackerLogExporter):
    """Exports this project's records into W&B. Arguments: those of ``WandbTracker``."""

    tracker = WandbTracker
