"""AIM's OpenTelemetry exporters, by which ``aim`` is known to OpenTelemetry."""

from __future__ import annotations

from tracelet_otel.tracker.opentelemetry_exporters import TrackerLogExporter, TrackerMetricExporter
from tracelet_otel_exporters.aim.tracker import AimTracker


class AimMetricExporter(TrackerMetricExporter):
    """OpenTelemetry metrics into one AIM run. Arguments: ``run`` and those of ``AimTracker``."""

    tracker = AimTracker


class AimLogExporter(TrackerLogExporter):
    """Exports this project's records into AIM. Arguments: those of ``AimTracker``."""

    tracker = AimTracker
