"""The session of this process: started, replaced and ended here, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tracelet_otel.delivery.otlp import forward
from tracelet_otel.delivery.summary import say
from tracelet_otel.foundation.forks import SharedLock, in_child
from tracelet_otel.instrumentation import instrumentors
from tracelet_otel.otlp.json import Signal
from tracelet_otel.semconv import Status
from tracelet_otel.session import providers, workers
from tracelet_otel.session.deliveries import BackendSignals
from tracelet_otel.session.lifecycle import Lifecycle, uninterrupted
from tracelet_otel.session.session import Session
from tracelet_otel.settings import Settings

_lock = SharedLock()
_session: Session | None = None
_lifecycle: Lifecycle | None = None
_declared_sdk: providers.DeclaredSdk | None = None
_offers_providers = False


def session() -> Session | None:
    """The session in use, if any."""
    return _session


def ready_session() -> Session | None:
    """The session in use, if it records; in a forked child it has begun again."""
    if _session is not None and _session.is_left:
        _begin_again()
    return None if _session is not None and _session.is_given_up else _session


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
    global _session, _lifecycle, _declared_sdk, _offers_providers
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
        _offers_providers = offer_providers
        if offer_providers:
            providers.offer_tracer_provider(span_exporters, new.resource)
            _offer_providers(new)
        instrumentors.instrument()
        workers.watch(lambda: _session)
        return new


def _offer_providers(session: Session) -> None:
    providers.offer_meter_provider(session.pipeline.meter_provider)
    providers.offer_logger_provider(session.pipeline.logger_provider)


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
    # In a forked child the session is the parent's, but for its runs; its threads are not there.
    global _lifecycle
    _lifecycle = None
    if _session is not None:
        _session.leave_to_parent(_begin_again)


def _begin_again() -> None:
    """In a forked child, at its first value: the session begins again, with everything of its own."""
    global _lifecycle
    with _lock:
        session = _session
        if session is None or not session.is_left or session.is_given_up:
            return
        try:
            session.begin_again()
            session.record()
            session.start()
            _lifecycle = Lifecycle(_end, _hurry)
        except Exception as error:
            session.give_up()
            say(f"nothing that process {os.getpid()} logs is recorded: {error!r}")
            return
        if _offers_providers:
            _offer_providers(session)


in_child(_forget)
