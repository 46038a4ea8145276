"""AIM: every point exact, every record in AIM's most native form, on disk or through its server."""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tracelet_otel.foundation.errors import DeliveryError, PermanentError
from tracelet_otel.foundation.importing import IMPORTING, all_or_nothing
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.otlp.records import Record, RunInfo, Series, SystemPoint
from tracelet_otel.semconv import Status
from tracelet_otel.tracker.interface import Capabilities, LocalStorage, Outcome, Problem
from tracelet_otel_exporters.aim import files, private, records, runs
from tracelet_otel_exporters.aim.changes import errors
from tracelet_otel_exporters.aim.local_repository import LocalRepository
from tracelet_otel_exporters.aim.local_store import LocalStore
from tracelet_otel_exporters.aim.points import logged, measured
from tracelet_otel_exporters.aim.remote import RemoteStore
from tracelet_otel_exporters.aim.runs import AimRun
from tracelet_otel_exporters.aim.server import AimServer

_INDEX_SECONDS: Final = 10.0
"""How often queries are told what a run has become."""
_LOGGER: Final = get_logger(__name__)


class AimTracker:
    """AIM as a :class:`~tracelet_otel.tracker.interface.Tracker`.

    It writes what ``aim.Run`` would write, without its threads, its locks of hours and its clean-up at exit.
    A run's hash is its id where that is 8 to 64 hexadecimal digits, else a hash of it.

    Args:
        repo: a folder, or ``aim://host:port`` of a tracking server. None: as AIM does, the nearest folder
            with an ``.aim`` at or above the current one, else the current one.
        artifacts_uri: ``file://`` or ``s3://`` folder for files. None: ``artifacts`` in the repository's
            ``.aim``, and none for a server, which takes files as content of texts then.
    """

    name = "aim"
    library = "aim"
    capabilities = Capabilities(
        time_resolution_ns=1_000,
        keeps_nan=True,
        keeps_infinity=True,
        keeps_repeated_step=False,
        idempotent_retry=True,
    )

    def __init__(self, repo: str | Path | None = None, *, artifacts_uri: str | None = None) -> None:
        if not isinstance(repo, (str, Path, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"repo must be text or a path, got {repo!r}")
        if not isinstance(artifacts_uri, (str, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"artifacts_uri must be text, got {artifacts_uri!r}")
        self._repo = str(repo) if repo is not None else None
        self._artifacts_uri = artifacts_uri
        try:
            self._folder = Path.cwd()
        except OSError:  # a folder that was deleted
            self._folder = Path(tempfile.gettempdir())
        self._repository: LocalRepository | AimServer | None = None
        self._runs: dict[str, AimRun] = {}

    def load(self) -> None:
        """Imports AIM; a repository on disk is opened, or created, which takes AIM seconds."""
        is_remote = (self._repo or "").startswith("aim://")
        with errors(), IMPORTING, all_or_nothing("aim"):
            importlib.import_module("aim")
            private.check_version()
            (private.ON_SERVER if is_remote else private.ON_DISK).check()
        if not is_remote:
            self.connect()

    def connect(self) -> None:
        """Reaches the repository."""
        if self._repository is None:
            with errors():
                storage = self.local_storage()
            if storage is not None:
                self._repository = LocalRepository(storage.path)
            elif (self._repo or "").startswith("aim://"):
                self._repository = AimServer(str(self._repo))
            else:
                raise PermanentError(f"AIM repository {self._repo!r}: a folder or aim://host:port is needed")
        self._repository.connect()

    def local_storage(self) -> LocalStorage | None:
        """The repository's ``.aim``; None for a server. It is where AIM itself would look for it."""
        name = os.environ.get(private.REPOSITORY_NAME) or ".aim"
        if self._repo is None:
            folders = (self._folder, *self._folder.parents)
            root = next((folder for folder in folders if (folder / name).is_dir()), self._folder)
        elif "://" in self._repo:
            return None
        else:
            path = self._folder / Path(self._repo.strip()).expanduser()
            root = Path(os.path.normpath(path).removesuffix(name))
        return LocalStorage(root / name)

    def open_run(self, run: RunInfo) -> str:
        """Finds or creates the run; for one that is open already, updates its description."""
        if (repository := self._repository) is None:
            raise PermanentError("connect() was not called")
        hash_ = runs.run_hash(run.id)
        opened = self._runs.get(run.id)
        if opened is None:
            if isinstance(repository, AimServer):
                opened = AimRun(run, RemoteStore(repository, hash_), self._artifacts_uri)
            else:
                store = LocalStore(repository.path, hash_, repository.row)
                opened = AimRun(run, store, self._artifacts_uri or repository.files)
            self._runs[run.id] = opened
            try:
                with self._held(run.id):
                    opened.is_resumed = runs.open_run(opened.store, run)
            except BaseException:
                self._runs.pop(run.id).store.close()
                raise
        elif run != opened.info:
            with self._held(run.id):
                runs.open_run(opened.store, run)
            opened.info = run
        return f"{repository.location} run {hash_}"

    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:
        """Writes points, all of a call at once; a repeat of the call leaves the same content."""
        outcome = Outcome()
        with self._held(run_id) as run:
            run.store.commit([change for one in series for change in logged(run, one, outcome)])
            files.drop_kept(run, outcome)
        files.note_aside(run, outcome)
        return outcome

    def write_record(self, record: Record) -> Outcome:
        """Writes one record of any kind but ``run`` and ``status``."""
        write = records.WRITERS.get(record.kind)
        if write is None:
            _LOGGER.warning("AIM: skipped a record of the unknown kind %r (%s)", record.kind, record.tag)
            return Outcome(rejected=[Problem(record.tag, f"unknown kind of record: {record.kind}")])
        with self._held(record.run_id) as run:
            try:
                outcome = write(run, record) or Outcome(1)
            except (FileNotFoundError, ValueError) as error:
                run.sequences.clear()
                return Outcome(rejected=[Problem(record.tag or record.kind, str(error))])
            files.drop_kept(run, outcome)
        files.note_aside(run, outcome)
        return outcome

    def write_system(self, run_id: str, points: Sequence[SystemPoint]) -> Outcome:
        """Writes measurements of the machine as AIM's system metrics; their steps count them."""
        with self._held(run_id) as run:
            run.store.commit(measured(run, points))
        return Outcome(len(points))

    def write_file(self, run_id: str, name: str, path: Path) -> None:
        """Stores a file with the run."""
        with self._held(run_id) as run:
            files.write(run, name, path)

    def close_run(self, run_id: str, status: Status) -> Outcome:
        """Writes status and end time, and gives the run back."""
        with self._held(run_id, is_final=True) as run:
            runs.finish(run.store, status)
        self._runs.pop(run_id).store.close()
        return Outcome()

    def close(self) -> None:
        """Gives back what is open; the runs stay in progress."""
        for run in self._runs.values():
            run.store.close()
        self._runs.clear()
        if self._repository is not None:
            self._repository.close()
            self._repository = None

    @contextmanager
    def _held(self, run_id: str, *, is_final: bool = False) -> Generator[AimRun]:
        """Takes the run, and lets queries find it; after a failure, what AIM has is looked up again."""
        if (run := self._runs.get(run_id)) is None:
            raise PermanentError(f"run {run_id} is not open")
        try:
            with run.store.held():
                yield run
                if is_final or time.monotonic() - run.indexed > _INDEX_SECONDS:
                    run.indexed = time.monotonic()
                    run.store.index(2.0 if is_final else 0.0)
        except DeliveryError:
            run.sequences.clear()
            run.times.clear()
            raise
