"""Which run an ``add_hparams`` belongs to: its parameters and metrics are one trial.

The first trial of a run belongs to the run itself. Once another one comes, each trial has a child run, the
first one too: what was recorded of it is recorded again there. A trial is known by the writer's folder and
its parameters: the same ones again, with later metrics, are the same trial, in every process. Where a process
writes into another one's run, which may have a trial already, each trial has a child run. So it is in ranks,
but for rank 0.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tracelet_otel.foundation.forks import SharedLock
from tracelet_otel.instrumentation.tensorboard.events import Scalar
from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.recording.run import Run
from tracelet_otel.secrets.redaction import redacted
from tracelet_otel.semconv import TENSORBOARD_LOG_DIR, Status

MAX_KEPT: Final = 10_000
"""Values of a run's first trial that are kept for its child run, the latest ones."""
MAX_NAME: Final = 100
"""Characters of a child run's name that is made of parameters."""
TIMESTAMP: Final = re.compile(r"\d{9,11}\.\d+")
"""The name of the sub-folder of an ``add_hparams`` that was given none: ``str(time.time())``."""

Value = LoggedEvent | tuple[Scalar, int, "int | None"]
"""A record, or a scalar with its step and time; with the writer's own tag."""

_lock = SharedLock()


@dataclass
class Trial:
    """One trial of a run."""

    of: Trials
    key: str
    """Its folder and parameters."""
    folder: str
    """The writer's."""
    name: str
    run: Run
    """What its values go to: the run of the trials itself, or a child run."""
    kept: deque[Value] = field(default_factory=lambda: deque(maxlen=MAX_KEPT))
    """What came of it, while it may yet get a child run."""
    is_written: bool = False
    """Whether the ``add_hparams`` has ended."""

    def recording(self, recorder: Recorder, value: Value, folder: str) -> None:
        """Is called before a value of the trial is recorded in its run.

        Args:
            recorder: records it.
            value: it.
            folder: of the event file, below the writer's.
        """
        with _lock:
            name = folder.replace("\\", "/").rpartition("/")[2]
            if not TIMESTAMP.fullmatch(name):
                self.name = name
            if self.run is self.of.run:
                self.kept.append(value)
                if self.of.others:  # one began while this one was being written, in another thread
                    self.of.divide(recorder)
            else:
                self.run.name = self.run.name or self.name
                self.of.divide(recorder)

    def end(self, recorder: Recorder, status: Status) -> None:
        """Is called after the ``add_hparams``."""
        with _lock:
            self.is_written = True
            if self.run is not self.of.run:
                if not (self.run.ended or self.run.joined):
                    recorder.end_run(self.run, status)
            elif (child := self.of.others.get(self.key)) is not None:
                child.end(recorder, status)
            elif self.of.first is self and not self.kept:
                self.of.first = None  # the call failed before it wrote anything


class Trials:
    """The trials of one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.first: Trial | None = None
        """The one that is the run's own."""
        self.others: dict[str, Trial] = {}
        """Those that have child runs, by their keys."""

    def find(self, folder: str, params: Mapping[str, Any]) -> Trial:
        """The trial of a folder with these parameters."""
        exact = {str(name): _comparable(value) for name, value in params.items()}
        key = json.dumps([folder, exact], sort_keys=True)
        with _lock:
            if key in self.others:
                return self.others[key]
            is_alone = not (self.run.joined or self.run.rank)
            if self.first is None and not self.others and is_alone:
                self.first = Trial(self, key, folder, _name(params), self.run)
            if self.first is not None and self.first.key == key:
                self.first.is_written = False
                return self.first
            return self._child(key, folder, _name(params))

    def divide(self, recorder: Recorder) -> None:
        """Has the first trial have a child run too."""
        if (first := self.first) is None:
            return
        child = self.others.get(first.key) or self._child(first.key, first.folder, first.name)
        child.run.name = child.run.name or first.name
        while first.kept:
            value = first.kept.popleft()
            if isinstance(value, LoggedEvent):
                recorder.event(value._replace(run=child.run))
            else:
                scalar, step, time_unix_nano = value
                recorder.scalar((scalar.tag, scalar.value, step, time_unix_nano, scalar.single, child.run))
        if first.is_written:  # else another thread is writing it, and ends the child run
            child.end(recorder, "finished")

    def _child(self, key: str, folder: str, name: str) -> Trial:
        run = self.run
        child = run.below(
            id=hashlib.sha256(f"{run.id} {key}".encode(errors="surrogatepass")).hexdigest()[:32],
            project=run.project,
            experiment=run.experiment,
            tags={**run.tags, TENSORBOARD_LOG_DIR: folder},
        )
        child.first_folder = folder
        made = self.others[key] = Trial(self, key, folder, name, child)
        return made


def trials_of(run: Run) -> Trials:
    """The trials of a run."""
    with _lock:
        trials: Trials | None = run.of_hooks.get("trials")
        if trials is None:
            trials = run.of_hooks["trials"] = Trials(run)
        return trials


def _comparable(value: Any) -> Any:
    """A parameter as a number, where it is one, as event files have it."""
    if value is None or isinstance(value, (bool, str)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return repr(value)


def _name(params: Mapping[str, Any]) -> str:
    shown = {key: value if isinstance(value, int) else _comparable(value) for key, value in params.items()}
    name = ", ".join(f"{key}={value}" for key, value in redacted(shown).items())
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
