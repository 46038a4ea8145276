"""Which writer of a run a trainer's values are of, and those that one logger alone was handed.

A trainer's values have the folder of its event files, else that of its first logger's own files: what is
written there past Lightning has the same. Where there is no such folder, the first trainer of a run is at
home in the run, and any other has a number. What a further logger was handed alone has that logger's folder.

Of a logger only ``log_dir`` is asked for, and not before Lightning has made its experiment.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from tracelet_otel.foundation.forks import SharedLock
from tracelet_otel.instrumentation.lightning import private
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.recording.run import Run
from tracelet_otel.recording.writer_names import absolute, series_tag

_lock = SharedLock()


class Owner(NamedTuple):
    """A trainer and its loggers, as far as names depend on them; it keeps none of them alive."""

    first: ref[Any]
    """Its first logger; itself if it has none. Trainers that have this in common are one writer."""
    sources: tuple[ref[Any], ...]
    """The loggers whose folder is that of its values; the first that has one counts."""
    root: str
    """Its root folder."""

    @classmethod
    def of(cls, trainer: Any) -> Owner:
        """A trainer as it is now."""
        loggers = [logger for logger in trainer.loggers if not is_a(logger, "DummyLogger")]
        with_events = [logger for logger in loggers if is_a(logger, "TensorBoardLogger")]
        sources = tuple(ref(logger) for logger in (*with_events[:1], *loggers[:1]))
        return cls(ref(loggers[0] if loggers else trainer), sources, absolute(str(trainer.default_root_dir)))


class Writer:
    """One writer of one run.

    Args:
        recorder: gives the names.
        run: the run.
        find_folder: says where it writes to, absolute or a URL; empty for the run itself. Called once, at its
            first value.
        prefix: what its logger puts before each metric's name.
    """

    def __init__(self, recorder: Recorder, run: Run, find_folder: Callable[[], str], prefix: str) -> None:
        self.recorder = recorder
        self.run = run
        self._find_folder = find_folder
        self._prefix = prefix
        self._names: dict[str, str] = {}
        self._first_checkpoints = ""
        self._folder: str | None = None

    def metric(self, tag: str) -> str:
        """The run's tag for a metric of this writer."""
        name = self._names.get(tag)
        if name is None:
            name = self._names[tag] = self.name(self._prefix + tag)
        return name

    def name(self, tag: str, below: str = "") -> str:
        """The run's name for anything of this writer, or for what is in a folder as seen from its own."""
        folder = self.folder()
        if not folder:
            return series_tag("/", absolute(f"/{below}"), tag)
        return self.recorder.tag_of(self.run, absolute(f"{folder}/{below}") if below else folder, tag)

    def checkpoint(self, folder: str, name: str) -> str:
        """The run's name for a file of a folder of checkpoints; the first folder's stay as they are."""
        first = self._first_checkpoints = self._first_checkpoints or folder
        return "checkpoints/" + self.name(name, "" if folder == first else os.path.relpath(folder, first))

    def folder(self) -> str:
        """Where it writes to; empty for the run itself."""
        with _lock:
            if self._folder is None:
                self._folder = self._find_folder()
            return self._folder


class _Writers:
    """The writers of one run that Lightning has in this process."""

    def __init__(self, recorder: Recorder, run: Run) -> None:
        self._recorder = recorder
        self._run = run
        self._of_trainers: WeakKeyDictionary[Any, Writer] = WeakKeyDictionary()
        """By the first logger, or by the trainer where it has none."""
        self._of_loggers: WeakKeyDictionary[Any, Writer] = WeakKeyDictionary()
        self._count = 0
        self._home = ""
        """The root folder of the trainer that is at home in the run."""
        self._taken: set[str] = set()

    def record_with(self, recorder: Recorder) -> None:
        """Has all writers record with this recorder: a forked child has one of its own."""
        if recorder is not self._recorder:
            self._recorder = recorder
            for writer in (*self._of_trainers.values(), *self._of_loggers.values()):
                writer.recorder = recorder

    def of_trainer(self, owner: Owner) -> Writer:
        key = owner.first()
        writer = self._of_trainers.get(key)
        if writer is None:
            self._leave_home()
            writer = self._of_trainers[key] = self._new(partial(self._folder_of, owner), key)
        return writer

    def of_logger(self, owner: Owner, logger: Any) -> Writer:
        writer = self._of_loggers.get(logger)
        if writer is None:
            self.of_trainer(owner).folder()  # before this one's: it may be the first
            alone = Owner(ref(logger), (ref(logger),), owner.root)
            find_folder = partial(self._folder_of, alone, alone=True)
            writer = self._of_loggers[logger] = self._new(find_folder, logger)
        return writer

    def _new(self, find_folder: Callable[[], str], logger: Any) -> Writer:
        join = getattr(logger, "LOGGER_JOIN_CHAR", None)
        prefix = private.PREFIX.get(logger, "") if join is not None else ""
        return Writer(self._recorder, self._run, find_folder, f"{prefix}{join}" if prefix else "")

    def _leave_home(self) -> None:
        """Makes the run's first folder that of the trainer at home, before another one's could be it."""
        if self._home:
            self._run.write_to(self._home)

    def _folder_of(self, owner: Owner, *, alone: bool = False) -> str:
        self._leave_home()
        self._count += 1
        folder = next((found for source in owner.sources if (found := _log_dir(source()))), "")
        if not folder:
            if self._count == 1:
                self._home = owner.root
                return ""
            folder = absolute(f"{owner.root}/{_called(owner.first(), self._count)}")
            if folder in self._taken:
                folder = f"{folder}_{self._count}"
        elif alone and folder in self._taken:
            folder = f"{folder}/{type(owner.first()).__name__}"
        self._taken.add(folder)
        return folder


def writer_of(recorder: Recorder, owner: Owner, logger: Any = None) -> Writer:
    """The writer in the current run of a trainer's values, or of a further logger's alone."""
    run = recorder.scope.current()
    with _lock:
        writers: _Writers | None = run.of_hooks.get("lightning")
        if writers is None:
            writers = run.of_hooks["lightning"] = _Writers(recorder, run)
        writers.record_with(recorder)
        if logger is None or logger is owner.first():
            return writers.of_trainer(owner)
        return writers.of_logger(owner, logger)


def is_a(thing: Any, name: str) -> bool:
    """Whether its class has, or derives from one of, this name, in whichever package."""
    return any(base.__name__ == name for base in type(thing).__mro__)


def _log_dir(logger: Any) -> str:
    folder = getattr(logger, "log_dir", None)
    return absolute(os.fspath(folder)) if isinstance(folder, (str, os.PathLike)) and folder else ""


def _called(owner: Any, number: int) -> str:
    """What people call the run of a logger without a folder; else its kind and number, as of a trainer."""
    for kind, name in (("MLFlowLogger", private.MLFLOW_RUN), ("WandbLogger", private.WANDB_RUN)):
        if is_a(owner, kind) and (given := name.get(owner)):
            return str(given).replace("/", "_").lstrip(".") or kind
    return f"{type(owner).__name__.removesuffix('Logger').lower()}_{number}"
