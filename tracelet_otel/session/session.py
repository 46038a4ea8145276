"""A session: one configured pipeline and the run it writes; a process has one at a time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from opentelemetry.sdk.resources import Resource

from tracelet_otel import recording
from tracelet_otel.delivery.summary import say
from tracelet_otel.instrumentation import parameters
from tracelet_otel.instrumentation.instrumentors import disabled
from tracelet_otel.otlp.run_resources import described
from tracelet_otel.recording.logged import json_event
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.recording.run import Run, RunScope
from tracelet_otel.recording.stand_ins import RestartingRecorder, RunOpener
from tracelet_otel.resource import environment, launcher
from tracelet_otel.secrets.redaction import redacted
from tracelet_otel.semconv import Status
from tracelet_otel.session import lineage
from tracelet_otel.session.children import finish_with_child
from tracelet_otel.session.deliveries import BackendSignals, make_deliveries
from tracelet_otel.session.ending import default_name, status_of
from tracelet_otel.session.ownership import Ownership
from tracelet_otel.session.parameters import SessionParameters
from tracelet_otel.session.pipeline import Pipeline
from tracelet_otel.session.providers import DeclaredSdk
from tracelet_otel.session.sampler import Sampler
from tracelet_otel.session.sharing import RunSharing
from tracelet_otel.session.unrecorded import UnrecordedChildren
from tracelet_otel.settings import Settings, state_folder


class Session:
    """A configured pipeline and the run it writes. Records nothing before :meth:`record`.

    Args:
        settings: all settings.
        end: called with the session and the status of its run where a ``with`` block around it ends.
        signals: which signals a backend gets that is not a tracker; both if it is not named.
        zero_code: started by ``opentelemetry-instrument``: a later ``configure()`` refines it.
        continues: the session whose current run goes on in this one.
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
        place = lineage.of_process(settings)
        self.settings = settings
        self._end = end
        self.zero_code = zero_code
        self.signals = signals or {}
        self._declared_sdk = declared_sdk
        self._process = os.getpid()
        self.is_left = False
        """Whether this is a forked child in which it has not begun again."""
        self.is_given_up = False
        """Whether this is a forked child in which it could not begin again."""
        if continues is not None and continues.run.opened and not _same_place(continues.settings, settings):
            continues = None  # a tracker cannot move a run that it has already
        before = continues.scope.current() if continues is not None else None
        if before is not None and before.joined and not place.joins:
            before = None  # it is another process's, and this session's is not
        self.run = Run(
            id=settings.run_id or (before.id if before else "") or place.launch.run_id,
            name=settings.run_name or (before.name if before else ""),
            project=settings.project,
            experiment=settings.experiment,
            tags=settings.tags,
            rank=place.launch.rank,
            parent=place.parent,
            family=place.family,
            owner=place.owner.process,
            on_open=self.opened,
        )
        if before is not None:
            self.run.continue_from(before)
        self._sharing = self.share(self.run)
        self.scope = RunScope(self.run)
        self._unrecorded = UnrecordedChildren()
        self._launch, self._launched = place.launch, launcher.fingerprint()
        self._set_up(place.launch)
        if continues is not None and before is not None:
            self.parameters.go_on(continues.parameters, before)

    def _set_up(self, launch: launcher.Launch) -> None:
        settings, declared_sdk = self.settings, self._declared_sdk
        self.media = MediaFolder(settings.media_dir)
        self.resource = _resource(self.run, declared_sdk)
        interval = settings.export_interval / 1000
        self.pipeline = Pipeline(self.resource, self.scope, interval=interval, media=self.media)
        self.ownership = Ownership(self.run.id, launch, self.joined, settings.ranks)
        self.parameters = SessionParameters(self.pipeline.recorder, lambda: self.ownership.describes)
        self._deliveries = make_deliveries(
            settings, self.run, self.signals, ends_runs=lambda: self.ownership.ends
        )
        self._is_shown = False
        if declared_sdk is not None and declared_sdk.meter_provider is not None:
            self.pipeline.join(declared_sdk.meter_provider)
            self._is_shown = declared_sdk.has_readers
        if self._deliveries and self.ownership.may_measure:
            self.pipeline.sampler = Sampler(self.resource, lambda: self.ownership.measures)
        self._recorder = self._make_recorder()
        self._described: bytes | None = None
        self._announced = False

    def _make_recorder(self) -> recording.Recorder | None:
        """What this process records into; None if nothing it logs is wanted."""
        recorder = self.pipeline.recorder
        recorder.checkpoints = self.settings.checkpoints
        if not self.records:  # without a backend nothing is recorded, so that nothing piles up
            return None
        opener = RunOpener(recorder) if self.pipeline.sampler is not None else None
        return recorder if self.ownership.is_recorded else opener

    @property
    def joined(self) -> bool:
        """Whether the run is that of a parent process, which ends it."""
        return self.run.joined

    def leave_to_parent(self, begin_again: Callable[[], None]) -> None:
        """In a forked child: all but the runs is the parent's, and is not touched any more.

        Args:
            begin_again: called with the child's first value; has to call :meth:`begin_again`.
        """
        self.is_left, self.is_given_up = True, False
        for run in self.scope.all():
            run.open_again(self._process)
        self._process = os.getpid()
        if self._recorder is not None:
            silent = isinstance(self._recorder, RunOpener)
            self._recorder = None if silent else RestartingRecorder(begin_again)
        # The clients of trackers do not survive a fork.
        if (self.joined or self._announced) and self.settings.isolation == "thread":
            self.settings = replace(self.settings, isolation="process")
        recording.install(self._recorder)

    def begin_again(self) -> None:
        """In a forked child: sets up everything anew, for the runs that were there at the fork."""
        found = self.parameters
        is_launched_anew = launcher.fingerprint() != self._launched
        self._set_up(launcher.detect() if is_launched_anew else self._launch)
        self.parameters.go_on(found, self.run)
        self.is_left = False
        if (current := self.scope.current()) is not self.run:
            self.share(current).start()

    def give_up(self) -> None:
        """In a forked child that cannot begin again: nothing is recorded, and the parent will say so."""
        self.is_left = self.is_given_up = True
        recording.install(None)
        parameters.on_found(None)
        self._unrecorded.add()

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
        parameters.on_found(self.parameters.take if self.records else None)

    def start(self) -> None:
        """Begins to deliver what is recorded."""
        self.pipeline.start(self._deliveries)

    def flush(self, idle_timeout: float | None = None) -> bool:
        """Delivers everything recorded so far.

        Args:
            idle_timeout: seconds to wait for a backend that takes nothing any more; None is the setting.

        Returns:
            Whether everything was delivered or, if it never can be, dropped and counted. False in a forked
            child that could not begin to record.
        """
        if self.is_left:
            return not self.is_given_up
        return self.pipeline.flush(self.settings.shutdown_timeout if idle_timeout is None else idle_timeout)

    def stop(self, status: Status | None) -> None:
        """Ends the runs with ``status`` (None leaves them open), delivers, and says what became of it all."""
        if recording.current() is self._recorder:
            recording.install(None)
            parameters.on_found(None)
        for run in self.scope.all():
            run.ended = True  # here: a writer that is bound to it goes on to the next session's run
            if status is not None:
                self.end_run(run, status)
        if self.is_left:
            return
        timeout = self.settings.shutdown_timeout
        if status is None:
            for delivery in self._deliveries:
                delivery.hand_on()
        # A signal is followed by a kill soon. A process that ends by itself waits for a backend that works.
        self.pipeline.stop(timeout, time.monotonic() + timeout if status == "killed" else None)
        self.ownership.close(has_ended=status is not None)
        self._sharing.stop(goes_on=status is None)
        if self._announced:
            for line in (line for delivery in self._deliveries for line in delivery.lines()):
                say(str(line))
        if line := self._unrecorded.line():
            say(line)

    def end_run(self, run: Run, status: Status) -> None:
        """Ends one run, where this process is the one to end it."""
        run.ended = True
        if not (run.joined or self.is_left) and (run is not self.run or self.ownership.ends):
            self.pipeline.recorder.end_run(run, status)

    def opened(self, run: Run) -> None:
        """A run's first value came: tells the trackers, and the user once."""
        self.ownership.open(run.id)
        if not run.name and not run.joined:
            run.name = default_name(run.id)
        if (parent := run.settle()) is not None:
            self.pipeline.recorder.event(json_event("run", parent.description(), parent))
        if self.settings.child_runs == "nested":
            run.name_family()
        if run.tell_children is not None:
            run.tell_children()
        self.pipeline.runs.add(run)
        run.opened_at = time.time_ns()
        self.pipeline.recorder.event(json_event("run", run.description(), run, run.opened_at))
        if self.ownership.describes and not run.joined and not disabled("environment"):
            now = environment.snapshot()
            self.pipeline.describe(run, lambda: self._environment(now))
        if run is self.run:
            if self.pipeline.sampler is not None:
                self.pipeline.sampler.start()
            if not run.joined or self.scope.current() is run:  # else the variables are a block's
                self._sharing.start()
        self.parameters.opened(run)
        if not self._announced and self._deliveries:
            self._announced = True
            names = ", ".join(name for delivery in self._deliveries for name in delivery.backends)
            say(f"run {run.name or run.id} -> {names}")
        finish_with_child()

    def _environment(self, now: environment.Snapshot) -> bytes:
        if self._described is None:  # every run of a sweep has the same
            self._described = json.dumps(
                environment.environment_record(now, gpus=not disabled("gpu"))
            ).encode()
        return self._described

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
