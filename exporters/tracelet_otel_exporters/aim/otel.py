"""AIM's OpenTelemetry exporters, by which ``aim`` is known to OpenTelemetry."""

from __future__ import annotations

from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.tracker.opentelemetry_exporters import TrackerLogExporter, TrackerMetricExporter
from tracelet_otel_exporters.aim.tracker import AimTracker


class AimMetricExporter(TrackerMetricExporter):
    """Exports OpenTelemetry metrics into one AIM run.

    Args:
        repo: a folder or ``aim://host:port``; None is what AIM itself would take.
        run: the run; None is that of ``TRACELET_RUN_ID`` and its like, or a new one.
    """

    def __init__(self, repo: str | None = None, run: RunInfo | None = None) -> None:
        super().__init__(lambda: AimTracker(repo), run)


class AimLogExporter(TrackerLogExporter):
    """Exports this project's records into AIM.

    Args:
        repo: a folder or ``aim://host:port``; None is what AIM itself would take.
    """

    def __init__(self, repo: str | None = None) -> None:
        super().__init__(lambda: AimTracker(repo))
