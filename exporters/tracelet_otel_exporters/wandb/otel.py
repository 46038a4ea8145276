"""W&B's OpenTelemetry exporters, by which ``wandb`` is known to OpenTelemetry."""

from __future__ import annotations

from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.tracker.opentelemetry_exporters import TrackerLogExporter, TrackerMetricExporter
from tracelet_otel_exporters.wandb.tracker import WandbTracker


class WandbMetricExporter(TrackerMetricExporter):
    """Exports OpenTelemetry metrics into one W&B run.

    Args:
        project: W&B's project; None is what W&B itself would take.
        run: the run; None is that of ``TRACELET_RUN_ID`` and its like, or a new one.
    """

    def __init__(self, project: str | None = None, run: RunInfo | None = None) -> None:
        super().__init__(lambda: WandbTracker(project=project), run)


class WandbLogExporter(TrackerLogExporter):
    """Exports this project's records into W&B.

    Args:
        project: W&B's project; None is what W&B itself would take.
    """

    def __init__(self, project: str | None = None) -> None:
        super().__init__(lambda: WandbTracker(project=project))
