"""A session: one configured pipeline and the run it writes; a process has one at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from opentelemetry.sdk.resources import Resource

from tracelet_otel import recording
from tracelet_otel.agent import isolation
from tracelet_otel.backends.deliveries import make_delivery
from tracelet_otel.delivery.delivery import BOTH, Delivery
from tracelet_otel.delivery.summary import say
from tracelet_otel.foundation.errors import DeliveryError
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.instrumentation import argparse
from tracelet_otel.instrumentation.instrumentors import disabled
from tracelet_otel.otlp.json import Signal
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.otlp.run_resources import described
from tracelet_otel.recording.logged import json_event
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.recording.run import Run
from tracelet_otel.recording.stand_ins import RunOpener
from tracelet_otel.resource import environment, launcher
from tracelet_otel.secrets.redaction import redacted
from tracelet_otel.semconv import Status
from tracelet_otel.session.ending import script_name, status_of
from tracelet_otel.session.lifecycle import finish_with_multiprocessing
from tracelet_otel.session.pipeline import Pipeline
from tracelet_otel.session.providers import DeclaredSdk
from tracelet_otel.session.sampler import Sampler
from tracelet_otel.session.sharing import RunSharing
from tracelet_otel.settings import Settings, run_owner, state_folder

BackendSignals = Mapping[str, frozenset[Signal]]
"""Which signals each backend gets."""


class Session:
    """A configured pipeline and the run it writes. Records nothing before :meth:`record`.

    Args:
        settings: all settings.
        end: called with the session and the status of its run where a ``with`` block around it ends.
        signals: which signals a backend gets that is not a tracker; both if it is not named.
        zero_code: started by ``opentelemetry-instrument``: a later ``configure()`` refines it.
        continues: the session whose run goes on in this one.
        declared_sdk: what a configuration file set up beside it.

    Raises:
        ConfigurationError: a backend does not exist or cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        end: Callable[[Session, Status], None],
        *,
        signals: BackendSignals | None = None,
        zero_code: bool = False,
        continues: Session | None = None,
        declared_sdk: DeclaredSdk | None = None,
    ) -> None:
        launch = launcher.detect()
        owner = run_owner()
        self.settings = settings
        self._end = end
        self.zero_code = zero_code
        self.joined = owner.process not in (0, os.getpid())
        """Whether the run is that of a parent process, which ends it."""
        if continues is not None and continues.run.opened and not _same_place(continues.settings, settings):
            continues = None  # a tracker cannot move a run that it has already
        self.run = Run(
            id=settings.run_id or (continues.run.id if continues else "") or launch.run_id,
            name=settings.run_name or (continues.run.name if continues else ""),
            project=settings.project,
            experiment=settings.experiment,
            tags=settings.tags,
            rank=launch.rank,
            on_open=self.opened,
        )
        if continues is not None:
            self.run.last_step.update(continues.run.last_step)
            self.run.first_folder = continues.run.first_folder
        self._sharing = self.share(self.run)
        self.media = MediaFolder(settings.media_dir)
        self.resource = _resource(self.run, declared_sdk)
        self.pipeline = Pipeline(
            self.resource, self.run, interval=settings.export_interval / 1000, media=self.media
        )
        self.signals = signals or {}
        self._ends_run = not self.joined and launch.rank in (None, 0)
        self._deliveries = self._make_deliveries(self.signals)
        self._is_shown = False
        if declared_sdk is not None and declared_sdk.meter_provider is not None:
            self.pipeline.join(declared_sdk.meter_provider)
            self._is_shown = declared_sdk.has_readers
        if self._deliveries and not self.joined and launch.is_first_of_node:
            self.pipeline.sampler = Sampler(self.resource)
        self._recorder = self._make_recorder(launch)
        self._described: bytes | None = None
        self._announced = False

    def _make_recorder(self, launch: launcher.Launch) -> recording.Recorder | None:
        """What this process records into; None if nothing it logs is wanted."""
        recorder = self.pipeline.recorder
        recorder.checkpoints = self.settings.checkpoints
        if not self.records:  # without a backend nothing is recorded, so that nothing piles up
            return None
        if self.settings.ranks == "all" or launch.rank in (None, 0):
            return recorder
        return RunOpener(recorder) if self.pipeline.sampler is not None else None

    def _make_deliveries(self, signals: BackendSignals) -> list[Delivery]:
        run, settings = self.run, self.settings
        info = RunInfo(run.id, run.name, run.project, run.experiment, run.tags)
        made: list[Delivery] = []
        name_of_session = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        state = state_folder(settings.spool_dir)
        named = {
            name: settings.backends.get(name, {}) for name in dict.fromkeys([*settings.backends, *signals])
        }
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
                            ends_runs=self._ends_run,
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

    def signals_for(self, settings: Settings) -> BackendSignals:
        """What a refining session inherits: the signals of the backends that both have."""
        return {name: kinds for name, kinds in self.signals.items() if name in settings.backends}

    @property
    def records(self) -> bool:
        """Whether there is any backend, or a reader of others that sees the last values."""
        return bool(self._deliveries) or self._is_shown

    def record(self) -> None:
        """Begins to record."""
        recording.install(self._recorder)
        argparse.on_parsed(self._parsed if self.records else None)

    def start(self) -> None:
        """Begins to deliver what is recorded."""
        self.pipeline.start(self._deliveries)

    def flush(self, idle_timeout: float | None = None) -> bool:
        """Delivers everything recorded so far.

        Args:
            idle_timeout: seconds to wait for a backend that takes nothing any more; None is the setting.

        Returns:
            Whether everything was delivered or, if it never can be, dropped and counted.
        """
        return self.pipeline.flush(self.settings.shutdown_timeout if idle_timeout is None else idle_timeout)

    def stop(self, status: Status | None) -> None:
        """Ends the runs with ``status`` (None leaves them open), delivers, and says what became of it all."""
        if recording.current() is self._recorder:
            recording.install(None)
            argparse.on_parsed(None)
        for run in self.pipeline.scope.all():
            run.ended = True  # here: a writer that is bound to it goes on to the next session's run
            if status is not None:
                self.end_run(run, status)
        timeout = self.settings.shutdown_timeout
        if status is None:
            for delivery in self._deliveries:
                delivery.hand_on()
        # A signal is followed by a kill soon. A process that ends by itself waits for a backend that works.
        self.pipeline.stop(timeout, time.monotonic() + timeout if status == "killed" else None)
        self._sharing.stop()
        if self._announced:
            for line in (line for delivery in self._deliveries for line in delivery.lines()):
                say(str(line))

    def end_run(self, run: Run, status: Status) -> None:
        """Ends one run; the default run only where this process is the one to end it."""
        if run is not self.run or self._ends_run:
            self.pipeline.end_run(run, status)

    def opened(self, run: Run) -> None:
        """A run's first value came: tells the trackers, and the user once."""
        if not run.name and not self.joined:
            digits = hashlib.sha256(run.id.encode()).hexdigest()[:4]  # others may start in the same second
            run.name = f"{script_name()}-{time.strftime('%Y%m%d-%H%M%S')}-{digits}"
        self.pipeline.runs.add(run)
        run.opened_at = time.time_ns()
        self.pipeline.recorder.event(json_event("run", run.description(), run, run.opened_at))
        if self._ends_run and not disabled("environment"):
            now = environment.snapshot()
            self.pipeline.describe(run, lambda: self._environment(now))
        if run is self.run:
            if self.pipeline.sampler is not None:
                self.pipeline.sampler.start()
            self._sharing.start()
            if self._ends_run and (arguments := argparse.captured()):
                self._record_arguments(arguments)
        if not self._announced and self._deliveries:
            self._announced = True
            names = ", ".join(name for delivery in self._deliveries for name in delivery.backends)
            say(f"run {run.name or run.id} -> {names}")
        finish_with_multiprocessing()

    def _environment(self, now: environment.Snapshot) -> bytes:
        if self._described is None:  # every run of a sweep has the same
            self._described = json.dumps(
                environment.environment_record(now, gpus=not disabled("gpu"))
            ).encode()
        return self._described

    def _parsed(self, arguments: Mapping[str, Any]) -> None:
        if self.run.opened and not self.run.ended and self._ends_run:
            self._record_arguments(arguments)

    def _record_arguments(self, arguments: Mapping[str, Any]) -> None:
        payload = json.dumps(dict(arguments)).encode()
        self.pipeline.recorder.event(json_event("params", payload, self.run))

    def share(self, run: Run) -> RunSharing:
        """What has child processes join a run, once it is started."""
        return RunSharing(run, state_folder(self.settings.spool_dir))

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(self, status_of(error))


def _same_place(before: Settings, after: Settings) -> bool:
    return (before.project, before.experiment) == (after.project, after.experiment)


def _resource(run: Run, declared_sdk: DeclaredSdk | None = None) -> Resource:
    # What OTEL_RESOURCE_ATTRIBUTES and detectors say of the process, command lines among it.
    found = Resource.create() if declared_sdk is None else declared_sdk.resource
    return Resource(redacted(found.attributes), found.schema_url).merge(Resource(described(run)))
