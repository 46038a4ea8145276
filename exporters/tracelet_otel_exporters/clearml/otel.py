"""ClearML's OpenTelemetry exporters, by which ``clearml`` is known to OpenTelemetry."""

from __future__ import annotations

from tracelet_otel.tracker.opentelemetry_exporters import TrackerLogExporter, TrackerMetricExporter
from tracelet_otel_exporters.clearml.tracker import ClearMLTracker


class ClearMLMetricExporter(TrackerMetricExporter):
    """OpenTelemetry metrics into one ClearML task. Arguments: ``run`` and those of ``ClearMLTracker``."""

    tracker = ClearMLTracker


class ClearMLLogExporter(TrackerLogExporter):
    """Exports this project's records into ClearML. Arguments: those of ``ClearMLTracker``."""

    tracker = ClearMLTracker
