"""The session of this process: started, replaced and ended here, and nowhere else."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace

from tracelet_otel import recording
from tracelet_otel.delivery.otlp import forward
from tracelet_otel.instrumentation import instrumentors
from tracelet_otel.otlp.json import Signal
from tracelet_otel.recording.stand_ins import RestartingRecorder
from tracelet_otel.semconv import Status
from tracelet_otel.session import providers
from tracelet_otel.session.lifecycle import Lifecycle, uninterrupted
from tracelet_otel.session.session import BackendSignals, Session
from tracelet_otel.settings import RUN_ID_VARIABLE, RUN_OWNER_VARIABLE, Settings

_lock = threading.RLock()
_session: Session | None = None
_lifecycle: Lifecycle | None = None
_declared_sdk: providers.DeclaredSdk | None = None


def session() -> Session | None:
    """The session in use, if any."""
    return _session


def signals(metrics: Sequence[str], logs: Sequence[str] | None) -> BackendSignals:
    """Which signals each backend gets when two variables name them; trackers take both from either.

    Args:
        metrics: the backends that one of them names.
        logs: those of the other, or None if it is not set: then OTLP receivers take both, as a run's
            description and end are records.
    """
    receivers = [name for name in metrics if name in forward.NAMES] if logs is None else []
    logs = receivers if logs is None else logs
    named: dict[Signal, Sequence[str]] = {"metrics": metrics, "logs": logs}
    return {
        name: frozenset(signal for signal, names in named.items() if name in names)
        for name in dict.fromkeys([*metrics, *logs])
    }


def start(
    settings: Settings,
    *,
    signals: BackendSignals | None = None,
    zero_code: bool = False,
    offer_providers: bool = True,
    trace_exporters: Sequence[str] = (),
    declared_sdk: providers.DeclaredSdk | None = None,
) -> Session:
    """Starts a session, in place of the one in use.

    A session that ``opentelemetry-instrument`` started is refined: its run goes on. Any other ends, and
    its run with it. What a configuration file set up stays for all that follow.

    Raises:
        ConfigurationError: the settings name a backend that cannot be used; the session in use stays.
    """
    global _session, _lifecycle, _declared_sdk
    with _lock:
        _declared_sdk = declared_sdk or _declared_sdk
        span_exporters = providers.find_span_exporters(trace_exporters)
        before = _session
        refined = before if before is not None and before.zero_code else None
        new = Session(
            settings,
            _end_session,
            signals=signals if signals is not None else refined.signals_for(settings) if refined else None,
            zero_code=zero_code or refined is not None,
            continues=refined,
            declared_sdk=_declared_sdk,
        )
        new.record()  # at once: nothing that is logged while the one before delivers may be lost
        if before is not None:
            goes_on = refined is not None and new.run.id == before.run.id
            before.stop(None if goes_on else "finished")
        new.start()
        _session = new
        if _lifecycle is None:
            _lifecycle = Lifecycle(_end, _hurry)
        if offer_providers:
            providers.offer_tracer_provider(span_exporters, new.resource)
            providers.offer_meter_provider(new.pipeline.meter_provider)
            providers.offer_logger_provider(new.pipeline.logger_provider)
        instrumentors.instrument()
        return new


def stop(status: Status | None = None) -> None:
    """Ends the session in use, if any: its run gets ``status``, or the one that shows now."""
    global _session, _lifecycle
    with _lock:
        session, _session = _session, None
        lifecycle, _lifecycle = _lifecycle, None
        try:
            if session is not None:
                shown: Status = lifecycle.status() if lifecycle else "finished"
                final = shown if status is None or shown == "killed" else status
                uninterrupted(lambda: session.stop(final))
        finally:
            if lifecycle is not None:  # only now: a signal while it delivers still lets it finish
                lifecycle.uninstall()


def _end_session(session: Session, status: Status) -> None:
    if _session is session:  # else another one is in use by now
        stop(status)


def _end(status: Status) -> None:
    # The process ends: not through stop(), which a signal could have interrupted while it holds the lock.
    global _session
    session, _session = _session, None
    if session is not None:
        session.stop(status)


def _hurry() -> None:
    session = _session
    if session is not None:
        session.pipeline.hurry()


def _forget() -> None:
    # A forked child is inert: the session, its threads and its lock are the parent's. But where the parent
    # had not logged anything, it may be a mere launcher, and the child the one that trains.
    global _session, _lifecycle, _lock
    before, _session = _session, None
    _lifecycle = None
    _lock = threading.RLock()
    if before is not None and before.records and not before.pipeline.scope.current().opened:
        recording.install(RestartingRecorder(lambda: _revive(before)))


def _revive(before: Session) -> None:
    """Starts the session that a launcher had, in its child: with the same run."""
    recording.install(None)
    run = before.pipeline.scope.current()
    for variable in (RUN_ID_VARIABLE, RUN_OWNER_VARIABLE):  # the parent's word that the run is its own
        os.environ.pop(variable, None)
    settings = replace(
        before.settings,
        run_id=run.id,
        run_name=run.name,
        project=run.project,
        experiment=run.experiment,
        tags=run.tags,
    )
    start(settings, signals=before.signals, zero_code=before.zero_code)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
