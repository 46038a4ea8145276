"""The one place where a logged value becomes OpenTelemetry: :func:`scalar` and :func:`event`.

Both do nothing until a pipeline is started, and in a forked child. Neither opens anything, waits
for anything or touches a tracker; what they cost, training pays.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from math import isfinite, isnan
from time import time_ns

from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber
from opentelemetry.context import Context, get_current
from opentelemetry.metrics import Meter, MeterProvider
from opentelemetry.trace import get_current_span
from opentelemetry.util.types import AnyValue

from tracelet_otel import semconv
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.recording.run import Run, RunScope, clean_text
from tracelet_otel.recording.series import POINT_KEY, SHOWN, Series, span_of
from tracelet_otel.secrets.redaction import redacted_json
from tracelet_otel.semconv import Kind
from tracelet_otel.settings import CheckpointPolicy
from tracelet_otel.version import VERSION

SCOPE_NAME = "tracelet_otel"
_UNSTEPPED = 0
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
        self._series: list[Series] = []
        self._set_elsewhere: Callable[..., None] | None = None

    def show_on(self, meter_provider: MeterProvider) -> None:
        """Has a gauge of another provider show the last values too, for readers that are not ours."""
        self._set_elsewhere = _gauge(meter_provider.get_meter(SCOPE_NAME, VERSION))

    def scalar(
        self, tag: str, value: float, step: int, time_unix_nano: int | None, single: bool, run: Run | None
    ) -> None:
        """See :func:`scalar`."""
        if time_unix_nano is not None and not 0 <= time_unix_nano < 2**63:
            time_unix_nano = None  # OTLP has no such time
        if not -(2**63) <= step < 2**63:
            raise OverflowError(f"a step must be in the range of int64, got {step}")
        run = run or self.scope.current()
        if not isfinite(value):
            name = "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
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

    def _bound(self, run: Run, tag: str, value: float) -> Series:
        series = Series(self, run.attributes(tag))
        self._show(series, value, series.context())
        if series.keep is not None:  # else the SDK is switched off
            # Two threads may both get here; their series end in the same reservoir.
            run.series[tag] = series
            self._series.append(series)
        return series

    def show(self) -> None:
        """Has the gauge show the last value of each series: before each collection."""
        for series in self._series[:]:
            value = series.latest()
            if value is not None and value is not series.shown:
                self._show(series, value, _SHOWN)

    def _show(self, series: Series, value: float, context: Context) -> None:
        self._set(value, series.attributes, context)
        series.shown = value
        if self._set_elsewhere is not None:
            self._set_elsewhere(value, series.attributes)

    def event(
        self,
        kind: Kind,
        tag: str,
        step: int | None,
        payload: bytes | None,
        mime_type: str,
        attributes: Mapping[str, AnyValue] | None,
        time_unix_nano: int | None,
        run: Run | None,
    ) -> None:
        """See :func:`event`."""
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


class _RevivingScope(RunScope):
    """Starts the session when it is first asked for a run, and answers for that session's."""

    def __init__(self, revive: Callable[[], None]) -> None:
        self._revive = revive
        self._lock = threading.Lock()

    def _revived(self) -> RunScope | None:
        with self._lock:
            if isinstance(_recorder, Reviving):
                self._revive()
        return _recorder.scope if _recorder is not None else None

    def current(self) -> Run:
        scope = self._revived()
        return scope.current() if scope is not None else Run()

    def entered(self) -> Run | None:
        scope = self._revived()
        return scope.entered() if scope is not None else None


class Reviving(Recorder):
    """Stands in for a recorder until the first value comes, then for the one that ``revive`` installs."""

    def __init__(self, revive: Callable[[], None]) -> None:
        self.scope: RunScope = _RevivingScope(revive)

    def scalar(
        self, tag: str, value: float, step: int, time_unix_nano: int | None, single: bool, run: Run | None
    ) -> None:
        """Records one point with the recorder that was installed."""
        self.scope.current()
        if _recorder is not None and _recorder is not self:
            _recorder.scalar(tag, value, step, time_unix_nano, single, run)

    def event(
        self,
        kind: Kind,
        tag: str,
        step: int | None,
        payload: bytes | None,
        mime_type: str,
        attributes: Mapping[str, AnyValue] | None,
        time_unix_nano: int | None,
        run: Run | None,
    ) -> None:
        """Records one record with the recorder that was installed."""
        self.scope.current()
        if _recorder is not None and _recorder is not self:
            _recorder.event(kind, tag, step, payload, mime_type, attributes, time_unix_nano, run)


class Unheard(Recorder):
    """Drops everything, but opens the default run with the first value: the machine is measured from then on.

    For a rank whose values are not recorded and which is the first one of its machine.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.scope = recorder.scope
        self.media = recorder.media

    def scalar(
        self, tag: str, value: float, step: int, time_unix_nano: int | None, single: bool, run: Run | None
    ) -> None:
        """Drops one point."""
        self._open(run)

    def event(
        self,
        kind: Kind,
        tag: str,
        step: int | None,
        payload: bytes | None,
        mime_type: str,
        attributes: Mapping[str, AnyValue] | None,
        time_unix_nano: int | None,
        run: Run | None,
    ) -> None:
        """Drops one record."""
        self._open(run)

    def _open(self, run: Run | None) -> None:
        run = run or self.scope.current()
        if not run.opened and run is self.scope.default:
            run.open()


class _NoRun(RunScope):
    """Never says which run is current."""

    def __init__(self) -> None:
        pass

    def current(self) -> Run:
        threading.Event().wait()
        raise AssertionError

    entered = current


class Parked(Recorder):
    """Holds every thread that logs. For a process that is about to die by a signal: what it would still log
    is lost anyway, and a loop that spins on would keep the delivery from finishing.
    """

    def __init__(self) -> None:
        self.scope: RunScope = _NoRun()


_recorder: Recorder | None = None


def install(recorder: Recorder | None) -> None:
    """Makes ``recorder`` the one that every hook and API call records into; None stops recording."""
    global _recorder
    _recorder = recorder


def recorder() -> Recorder | None:
    """The recorder in use, if any."""
    return _recorder


def scalar(
    tag: str,
    value: float,
    step: int = _UNSTEPPED,
    *,
    time_unix_nano: int | None = None,
    single: bool = False,
    run: Run | None = None,
) -> None:
    """Records one point.

    Args:
        tag: the exact tag; any text.
        value: a Python float, NaN and infinities included.
        step: a Python int in the range of int64.
        time_unix_nano: wall time in nanoseconds since the epoch; None is now.
        single: ``value`` was a float32; it is delivered as the shortest decimal that reads back to it.
        run: whose point it is; None is the current run.
    """
    if _recorder is not None:
        _recorder.scalar(tag, value, step, time_unix_nano, single, run)


def event(
    kind: Kind,
    *,
    tag: str = "",
    step: int | None = None,
    payload: bytes | None = None,
    mime_type: str = "",
    attributes: Mapping[str, AnyValue] | None = None,
    time_unix_nano: int | None = None,
    run: Run | None = None,
) -> None:
    """Records anything that is not a scalar; :mod:`tracelet_otel.otlp.records` says what each kind holds.

    Args:
        kind: what it is.
        tag: its exact tag, or empty.
        step: a Python int in the range of int64, or None.
        payload: its content; of any size.
        mime_type: of the payload.
        attributes: further attributes, named in :mod:`tracelet_otel.semconv`; flat.
        time_unix_nano: wall time in nanoseconds since the epoch; None is now.
        run: whose record it is; None is the current run.
    """
    if _recorder is not None:
        _recorder.event(kind, tag, step, payload, mime_type, attributes, time_unix_nano, run)


_callbacks: list[Callable[[], None]] = []


def before_collect(callback: Callable[[], None]) -> None:
    """Has ``callback`` called in the pipeline's thread before each collection and each flush.

    For values whose conversion would make training wait, such as tensors on a device. Registering
    the same function again changes nothing; it outlives any pipeline.
    """
    if callback not in _callbacks:
        _callbacks.append(callback)


def collection_callbacks() -> list[Callable[[], None]]:
    """What :func:`before_collect` registered."""
    return list(_callbacks)


def _forget() -> None:
    # A forked child shares the parent's run and has none of its threads: whatever it recorded would
    # never be delivered, or be delivered twice.
    install(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
