"""The one place where a logged value becomes OpenTelemetry: a point of a gauge, or an event.

It opens nothing, waits for nothing and touches no tracker. Training pays what it costs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from time import time_ns

from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber
from opentelemetry.context import Context, get_current
from opentelemetry.metrics import Meter, MeterProvider
from opentelemetry.trace import get_current_span
from opentelemetry.util.types import AnyValue

from tracelet_otel import semconv
from tracelet_otel.recording.logged import LoggedEvent, LoggedPoint, json_event
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.recording.run import Run, RunScope, clean_text
from tracelet_otel.recording.series import POINT_KEY, SHOWN, BoundSeries, span_of
from tracelet_otel.recording.writer_names import series_tag
from tracelet_otel.secrets.redaction import redacted_json
from tracelet_otel.semconv import Status
from tracelet_otel.settings import CheckpointPolicy
from tracelet_otel.version import VERSION

SCOPE_NAME = "tracelet_otel"
_NAMED_VALUES = ("params", "tags")
"""The kinds in which secrets are masked: what is logged as text, image or file is kept as it is."""
_SHOWN = Context({POINT_KEY: SHOWN})


def _gauge(meter: Meter) -> Callable[..., None]:
    """How the gauge of the scalars is set."""
    return meter.create_gauge(
        semconv.SCALAR, description="Scalars that a training script logs; one series a tag."
    ).set


class Recorder:
    """Records into one pair of providers.

    Args:
        meter_provider: must have the lossless view, or only the last value of a tag is kept.
        logger_provider: receives the records.
        scope: says which run is current.
        media: where hooks keep files that are too large for an event.
    """

    checkpoints: CheckpointPolicy = "none"
    """Which checkpoints the hooks upload."""

    def __init__(
        self,
        meter_provider: MeterProvider,
        logger_provider: LoggerProvider,
        scope: RunScope,
        media: MediaFolder | None = None,
    ) -> None:
        self.media = media or MediaFolder()
        meter = meter_provider.get_meter(SCOPE_NAME, VERSION)
        self.scope = scope
        self._set = _gauge(meter)
        self._add = meter.create_counter(
            semconv.SCALAR_NONFINITE, description="NaN and infinite scalars that a training script logs."
        ).add
        self._logger = logger_provider.get_logger(SCOPE_NAME, VERSION)
        self._series: list[BoundSeries] = []
        self._set_elsewhere: Callable[..., None] | None = None

    def show_on(self, meter_provider: MeterProvider) -> None:
        """Has a gauge of another provider show the last values too, for readers that are not ours."""
        self._set_elsewhere = _gauge(meter_provider.get_meter(SCOPE_NAME, VERSION))

    def scalar(self, point: LoggedPoint) -> None:
        """Records one point.

        Raises:
            OverflowError: the step is not in the range of int64.
        """
        tag, value, step, time_unix_nano, single, run = point
        if time_unix_nano is not None and not 0 <= time_unix_nano < 2**63:
            time_unix_nano = None  # OTLP has no such time
        if not -(2**63) <= step < 2**63:
            raise OverflowError(f"a step must be in the range of int64, got {step}")
        run = run or self.scope.current()
        if not isfinite(value):
            name = semconv.nonfinite_name(value)
            context = Context({**get_current(), POINT_KEY: (step, time_unix_nano, single)})
            self._add(1, {**run.attributes(tag), semconv.VALUE: name}, context)
            return
        series = run.series.get(tag)
        if series is None or series.owner is not self:
            series = self._bound(run, tag, value)
        if series.keep is not None:
            context = get_current()
            span_id, trace_id = span_of(context) if context else (0, 0)
            series.keep((value, time_unix_nano or time_ns(), step, single, span_id, trace_id))

    def _bound(self, run: Run, tag: str, value: float) -> BoundSeries:
        series = BoundSeries(self, run.attributes(tag))
        self._show(series, value, series.context())
        if series.keep is not None:  # else the SDK is switched off
            # Two threads may both get here; their series end in the same reservoir.
            run.series[tag] = series
            self._series.append(series)
        return series

    def tag_of(self, run: Run, folder: str, tag: str, home: str = "") -> str:
        """The run's tag for a writer's own.

        Args:
            run: the run that the value belongs to.
            folder: the writer's, absolute or a URL.
            tag: as the writer was given it.
            home: that of the writer which made this one, where it has another folder.
        """
        if not run.first_folder and run.write_to(home or folder):
            tags = json.dumps({semconv.TENSORBOARD_LOG_DIR: run.first_folder}).encode("ascii")
            self.event(json_event("tags", tags, run))
        return series_tag(run.first_folder, folder, tag)

    def show(self) -> None:
        """Has the gauge show the last value of each series: before each collection."""
        for series in self._series[:]:
            value = series.latest()
            if value is not None and value is not series.shown:
                self._show(series, value, _SHOWN)

    def _show(self, series: BoundSeries, value: float, context: Context) -> None:
        self._set(value, series.attributes, context)
        series.shown = value
        if self._set_elsewhere is not None:
            self._set_elsewhere(value, series.attributes)

    def end_run(self, run: Run, status: Status) -> None:
        """Records the final status of a run, if it ever opened."""
        run.ended = True
        if run.opened:
            # One before the beginning, of a clock that was set back, would be taken for an earlier attempt's.
            now = max(time_ns(), run.opened_at)
            attributes = {semconv.RUN_STATUS: status}
            self.event(LoggedEvent("status", attributes=attributes, time_unix_nano=now, run=run))

    def event(self, event: LoggedEvent) -> None:
        """Records anything that is not a scalar."""
        kind, tag, step, payload, mime_type, attributes, time_unix_nano, run = event
        if payload is not None and kind in _NAMED_VALUES:
            payload = redacted_json(payload)
        run = run or self.scope.current()
        if not run.opened and kind not in ("run", "status"):
            run.open()
        described: dict[str, AnyValue] = {**run.identity(), semconv.TAG: clean_text(tag)}
        if step is not None:
            described[semconv.STEP] = step
        if mime_type:
            described[semconv.MIME_TYPE] = mime_type
        if attributes:
            described.update(
                {key: clean_text(v) if isinstance(v, str) else v for key, v in attributes.items()}
            )
        name = semconv.EVENT_PREFIX + kind
        self._logger.emit(
            LogRecord(
                timestamp=time_unix_nano if time_unix_nano and 0 < time_unix_nano < 2**63 else time_ns(),
                severity_number=SeverityNumber.INFO,
                event_name=name,
                body=payload,
                attributes=described,
            )
        )
        span = get_current_span()
        if span.is_recording():
            span.add_event(name, described, time_unix_nano)
