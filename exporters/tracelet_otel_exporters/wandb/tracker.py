"""Weights & Biases, through its own client: every point exact, every record in W&B's most native form."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Final

from tracelet_otel.foundation.errors import DeliveryError, PermanentError, TransientError
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series, SystemPoint
from tracelet_otel.semconv import Status
from tracelet_otel.tracker.interface import Capabilities, LocalStorage, Outcome, Problem
from tracelet_otel_exporters.shared.importing import IMPORTING
from tracelet_otel_exporters.wandb import files as wandb_files
from tracelet_otel_exporters.wandb import names as wandb_names
from tracelet_otel_exporters.wandb import records as wandb_records
from tracelet_otel_exporters.wandb import rows as wandb_rows
from tracelet_otel_exporters.wandb import runs as wandb_runs
from tracelet_otel_exporters.wandb import settings as wandb_settings
from tracelet_otel_exporters.wandb import system as wandb_system
from tracelet_otel_exporters.wandb.runs import OpenRun
from tracelet_otel_exporters.wandb.session import Session, errors
from tracelet_otel_exporters.wandb.settings import Options

FINISH_SECONDS: Final = 30.0
"""How long a run's end waits for its upload before the delivery is asked to try again."""
CLOSE_SECONDS: Final = 10.0
"""How long the client's end waits for the uploads of all runs that are open."""
ROWS_AT_ONCE: Final = 100
"""Rows that are handed over together: ``wandb-core`` works on them while the next ones are made."""

_EXIT_CODES: Final = {"finished": 0, "failed": 1, "killed": 255}
_MODES: Final = ("online", "offline", "disabled", "dryrun")
_LOGGER: Final = get_logger(__name__)


class WandbTracker:
    """W&B as a :class:`~tracelet_otel.tracker.interface.Tracker`.

    Its settings are W&B's own variables and files (``WANDB_MODE``, ``WANDB_BASE_URL``, ``WANDB_API_KEY``,
    ``WANDB_DIR``, ...). The user's own ``wandb`` in the same process is not touched: ``wandb.run``, its
    login, its settings and its ``wandb-core`` are apart from ours.

    Args:
        project: for runs that name none; None is ``WANDB_PROJECT``, else W&B's default.
        entity: user or team; None is ``WANDB_ENTITY``, else the user's default.
        mode: ``online`` or ``offline``; None is ``WANDB_MODE``, else online.
        dir: the folder of the folder ``wandb``; None is ``WANDB_DIR``, else the one that is current now.
    """

    name = "wandb"
    library = "wandb"
    capabilities = Capabilities(
        time_resolution_ns=wandb_rows.JOIN_NS,
        keeps_nan=True,
        keeps_infinity=True,
        keeps_repeated_step=True,
        idempotent_retry=True,  # by the points' sequence numbers; those that have none are there twice
    )

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        mode: str | None = None,
        dir: str | Path | None = None,
    ) -> None:
        for name, value in (("project", project), ("entity", entity), ("mode", mode)):
            if not isinstance(value, (str, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"{name} must be text, got {value!r}")
        if not isinstance(dir, (str, Path, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"dir must be a path, got {dir!r}")
        if mode not in (*_MODES, None):
            raise TypeError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
        try:
            self._folder = str(Path.cwd())
        except OSError:  # a folder that was deleted
            self._folder = tempfile.gettempdir()
        self._options = Options(project, entity, mode, str(dir) if dir else None)
        self._session: Session | None = None
        self._staging: Path | None = None
        self._infos: dict[str, RunInfo] = {}
        self._runs: dict[str, OpenRun] = {}

    def load(self) -> None:
        """Imports W&B and starts a ``wandb-core`` process."""
        with errors(), IMPORTING:
            import wandb  # noqa: F401  # pyright: ignore[reportUnusedImport]
        self._connected()

    def connect(self) -> None:
        """Looks for credentials, unless runs stay on this machine; opening a run reaches the server."""
        session = self._connected()
        if not wandb_settings.is_offline(session, self._options):
            wandb_settings.authenticate(session)

    def local_storage(self) -> LocalStorage:
        """The folder of the runs' files, also of runs that are sent to a server."""
        folder = self._options.dir or os.environ.get("WANDB_DIR") or ""
        return LocalStorage(Path(self._folder, folder, "wandb"), made_by_connect=False)

    def open_run(self, run: RunInfo) -> str:
        """Finds or creates the run; for one that is open already, updates name and tags."""
        self._infos[run.id] = run
        opened = self._runs.get(run.id)
        if opened is None:
            opened = self._open(run)
        else:
            with self._watched(opened.session):
                wandb_runs.update(opened.session, opened, run)
        settings = opened.run.settings
        return str(settings.sync_dir if opened.run.offline else settings.run_url)

    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:
        """Logs points, those of one step together; those that W&B has by their numbers are left out."""
        session, opened = self._open_run(run_id)
        outcome = Outcome()
        taken: list[tuple[str, int, int]] = []
        keyed = [part for one in series for part in self._new_points(opened, one, taken, outcome)]
        rows = wandb_rows.rows(keyed)
        with self._watched(session):
            for start in range(0, len(rows), ROWS_AT_ONCE):
                session.publish(wandb_rows.messages(opened.id, rows[start : start + ROWS_AT_ONCE]))
            for key, first, end in taken:
                opened.ledger.add(key, first, end)
            wandb_runs.publish_ledger(session, opened)
            opened.publish_names(session)
            session.confirm(opened.run._interface)
        return outcome

    def write_record(self, record: Record) -> Outcome:
        """Writes one record of any kind but ``run`` and ``status``."""
        session, opened = self._open_run(record.run_id)
        write = wandb_records.WRITERS.get(record.kind)
        if write is None:
            _LOGGER.warning("W&B: skipped a record of the unknown kind %r (%s)", record.kind, record.tag)
            return Outcome(rejected=[Problem(record.tag, f"unknown kind of record: {record.kind}")])
        is_row = record.kind in wandb_records.ROWS
        fingerprint = wandb_records.fingerprint(record) if is_row else ""
        if opened.ledger.has_record(fingerprint):
            return Outcome(1)
        with self._watched(session):
            try:
                self._stage()
                with session.calls():
                    outcome = write(session, opened, record)
            except DeliveryError as error:
                if isinstance(error.__cause__, (FileNotFoundError, ValueError)):
                    return Outcome(rejected=[Problem(record.tag or record.kind, str(error.__cause__))])
                raise
            if is_row:
                opened.ledger.add_record(fingerprint)
                wandb_runs.publish_ledger(session, opened)
            opened.publish_names(session)
            session.confirm(opened.run._interface)
        return outcome

    def write_system(self, run_id: str, points: Sequence[SystemPoint]) -> Outcome:
        """Writes measurements of the machine to the run's system panel."""
        session, opened = self._open_run(run_id)
        with self._watched(session):
            session.publish(wandb_system.messages(opened.id, points, opened.first_readings))
        return Outcome(len(points))

    def write_file(self, run_id: str, name: str, path: Path) -> None:
        """Stores a file with the run, as ``name`` among its files."""
        session, opened = self._open_run(run_id)
        with self._watched(session):
            wandb_files.store_file(session, opened, name, path)
            opened.publish_names(session)
            session.confirm(opened.run._interface)

    def close_run(self, run_id: str, status: Status) -> Outcome:
        """Ends the run with W&B's exit code for the status: 0, 1, or 255 as after an interrupt."""
        session, opened = self._open_run(run_id)
        with self._watched(session):
            wandb_runs.finish(session, opened, _EXIT_CODES[status], FINISH_SECONDS)
        del self._runs[run_id]
        del self._infos[run_id]
        self._close_unused(session)
        return Outcome()

    def _stage(self) -> None:
        """Makes W&B's folder for media again: it goes when the process exits, before the last records."""
        from wandb.sdk.data_types import _private

        folder = Path(_private.MEDIA_TMP.name)
        if not folder.exists():
            folder.mkdir()
            self._staging = folder

    def close(self) -> None:
        """Ends ``wandb-core``; a run that is open keeps its state, and has what was written."""
        deadline = time.monotonic() + CLOSE_SECONDS
        runs, self._runs = list(self._runs.values()), {}
        sessions = {id(opened.session): opened.session for opened in runs}
        if self._session is not None:
            sessions[id(self._session)] = self._session
        self._session = None
        try:
            for opened in runs:
                with contextlib.suppress(DeliveryError):
                    wandb_runs.finish(opened.session, opened, None, max(0.0, deadline - time.monotonic()))
        finally:
            for session in sessions.values():
                session.close()
            if self._staging is not None:
                shutil.rmtree(self._staging, ignore_errors=True)

    def _connected(self) -> Session:
        if self._session is None:
            self._session = Session(self._options.dir or self._folder)
        return self._session

    def _open(self, run: RunInfo) -> OpenRun:
        session = self._connected()
        if not wandb_settings.is_offline(session, self._options):
            wandb_settings.authenticate(session)
            wandb_settings.reach(session)
        with self._watched(session):
            try:
                self._runs[run.id] = wandb_runs.open_run(session, self._options, run)
            except DeliveryError:
                # wandb-core still tries to open it, and can be asked for the same run no more.
                self._session = None
                self._close_unused(session)
                raise
        return self._runs[run.id]

    def _close_unused(self, session: Session) -> None:
        if session is not self._session and all(run.session is not session for run in self._runs.values()):
            session.close()

    def _open_run(self, run_id: str) -> tuple[Session, OpenRun]:
        if run_id not in self._infos:
            raise PermanentError(f"run {run_id} is not open")
        opened = self._runs.get(run_id) or self._open(self._infos[run_id])  # lost with its wandb-core
        return opened.session, opened

    @contextlib.contextmanager
    def _watched(self, session: Session) -> Generator[None]:
        """After the end of ``wandb-core`` a new one is started, and the run's log says what it had taken."""
        try:
            yield
        except DeliveryError as error:
            if session.is_alive or session.is_closed:
                raise
            if session is self._session:
                self._session = None
            self._runs = {name: run for name, run in self._runs.items() if run.session is not session}
            session.close()
            raise TransientError(f"wandb-core has ended: {error}") from error

    def _new_points(
        self, opened: OpenRun, series: Series, taken: list[tuple[str, int, int]], outcome: Outcome
    ) -> Iterator[tuple[str, Sequence[Point]]]:
        """The points that W&B does not have; says in ``outcome`` what became of each."""
        key = wandb_names.metric_key(series.tag, series.rank)
        opened.note("metrics", key, f"{series.tag}/rank_{series.rank}" if series.rank else series.tag)
        outcome.accepted += len(series.points)
        if series.sequence is None:
            yield key, series.points
            return
        first = series.sequence
        # NaN and the infinities of a tag have numbers of their own, which may be those of its finite points.
        value = series.points[0].value if series.points else 0.0
        numbered = key if math.isfinite(value) else f"{key}\0{value}"
        for start, end in opened.ledger.missing(numbered, first, first + len(series.points)):
            taken.append((numbered, start, end))
            yield key, series.points[start - first : end - first]
