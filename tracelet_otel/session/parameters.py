"""Which run of a session gets which of the parameters that hooks find."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from tracelet_otel.foundation.guard import log_once
from tracelet_otel.instrumentation import parameters
from tracelet_otel.recording.logged import json_event
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.recording.run import Run


class SessionParameters:
    """The parameters of a session's runs. What is found before a run opens is recorded as it opens.

    Args:
        recorder: of the session.
        owns_run: whether this process describes the session's own run; known once that is open.
    """

    def __init__(self, recorder: Recorder, owns_run: Callable[[], bool]) -> None:
        self._recorder = recorder
        self._run = recorder.scope.default
        self._owns_run = owns_run
        self._words: parameters.CommandLine | None = None
        self._waiting: WeakKeyDictionary[Run, dict[str, Any]] = WeakKeyDictionary()
        self._with_job: WeakSet[Run] = WeakSet()
        if job := parameters.job():  # configure() is called inside the job
            self.take_job(job)

    def go_on(self, before: SessionParameters, run: Run) -> None:
        """Takes over what waits for runs to open; what waits for ``run`` is the session's own run's now."""
        waiting = dict(before._waiting)
        if (params := waiting.pop(run, None)) is not None:
            waiting[self._run] = params
        self._waiting.update(waiting)

    def take(self, params: Mapping[str, Any], words: parameters.CommandLine | None = None) -> None:
        """Records parameters with the run at hand, at once or when it opens.

        Args:
            params: JSON values.
            words: the command line that they were parsed from, if they were.
        """
        run = self._recorder.scope.current()
        if run.opened and run is self._run and not self._owns_run():
            return
        if not run.opened:
            if words is None or run is not self._run:  # its own run asks for the command line itself
                self._waiting.setdefault(run, {}).update(params)
        elif not run.ended:
            if run is self._run and words is not None:
                if self._words not in (None, words):
                    log_once(
                        "another command line",
                        logging.WARNING,
                        "the script has parsed another command line than that of its open run %s: these "
                        "parameters are recorded with the next run, if configure() starts one",
                        run.name or run.id,
                    )
                    return
                self._words = words
            self._record(run, params)

    def take_job(self, params: Mapping[str, Any]) -> bool:
        """Takes a job's configuration for the run at hand.

        Returns:
            Whether it did: not if the run has the configuration of another job.
        """
        run = self._recorder.scope.current()
        if run in self._with_job:
            return False
        self._with_job.add(run)
        self.take(params)
        return True

    def opened(self, run: Run) -> None:
        """Records what was found for a run that opens now."""
        params = self._waiting.pop(run, {})
        if run is self._run:
            if not self._owns_run():
                return
            parsed, words = parameters.command_line()
            params = {**parsed, **params}
            self._words = words if parsed else None
        if params:
            self._record(run, params)

    def _record(self, run: Run, params: Mapping[str, Any]) -> None:
        self._recorder.event(json_event("params", json.dumps(dict(params)).encode(), run))
