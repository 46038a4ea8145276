"""A session's deliveries: one to the agent of the trackers, and one for each other backend."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping

from tracelet_otel.agent import isolation
from tracelet_otel.backends.deliveries import make_delivery
from tracelet_otel.delivery.delivery import BOTH, Delivery
from tracelet_otel.foundation.errors import DeliveryError
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.json import Signal
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.recording.run import Run
from tracelet_otel.settings import Settings, state_folder

BackendSignals = Mapping[str, frozenset[Signal]]
"""Which signals each backend gets."""


def make_deliveries(
    settings: Settings, run: Run, signals: BackendSignals, *, ends_runs: Callable[[], bool]
) -> list[Delivery]:
    """The deliveries of one session of this process.

    Args:
        settings: the session's.
        run: its run.
        signals: which signals a backend gets that is not a tracker; both if it is not named.
        ends_runs: whether the end of this process is the end of the runs that it writes.

    Raises:
        ConfigurationError: a backend does not exist or cannot be used.
    """
    info = RunInfo(run.id, run.name, run.project, run.experiment, run.tags, run.parent, run.family)
    made: list[Delivery] = []
    name_of_session = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    state = state_folder(settings.spool_dir)
    named = {name: settings.backends.get(name, {}) for name in dict.fromkeys([*settings.backends, *signals])}
    isolated = isolation.isolated(named) if settings.isolation == "process" else {}
    try:
        if isolated:
            try:
                made.append(
                    isolation.make_delivery(
                        isolated,
                        settings,
                        run_id=run.id,
                        state=state,
                        session=name_of_session,
                        ends_runs=ends_runs,
                    )
                )
            except (DeliveryError, OSError) as error:
                log_once("agent", logging.WARNING, "trackers stay in this process: %s", error)
                isolated = {}
        for name, options in named.items():
            if name not in isolated:
                made.append(
                    make_delivery(
                        name,
                        options,
                        run=info,
                        max_queue_bytes=settings.max_queue_bytes,
                        state=state,
                        session=name_of_session,
                        max_spool_bytes=settings.max_spool_bytes,
                        signals=signals.get(name, BOTH),
                    )
                )
    except Exception:
        for delivery in made:
            delivery.close(0)
        raise
    return made
