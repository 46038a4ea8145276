"""Weights & Biases, through its own client: every point exact, every record in W&B's most native form."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final

from tracelet_otel.foundation.errors import DeliveryError, PermanentError, TransientError
from tracelet_otel.foundation.importing import IMPORTING, all_or_nothing
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series, SystemPoint
from tracelet_otel.semconv import Status
from tracelet_otel.tracker.interface import Capabilities, LocalStorage, Outcome, Problem
from tracelet_otel_exporters.wandb import names, private, records, run_settings, runs
from tracelet_otel_exporters.wandb.core import Core, errors
from tracelet_otel_exporters.wandb.points import JOIN_NS, history, measurements, rows
from tracelet_otel_exporters.wandb.runs import WandbRun

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
        dir: the folder that holds the folder ``wandb``; None is ``WANDB_DIR``, else the current folder.
    """

    name = "wandb"
    library = "wandb"
    capabilities = Capabilities(
        time_resolution_ns=JOIN_NS,
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
        for name, value in (("project", project), ("entity", entity)):
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
        given = {"project": project, "entity": entity, "mode": mode, "root_dir": str(dir) if dir else None}
        self._options = {name: value for name, value in given.items() if value}
        self._core: Core | None = None
        self._media_folder: Path | None = None
        self._infos: dict[str, RunInfo] = {}
        self._runs: dict[str, WandbRun] = {}

    def load(self) -> None:
        """Imports W&B and starts a ``wandb-core`` process."""
        with errors(), IMPORTING, all_or_nothing("wandb"):
            import wandb  # noqa: F401  # pyright: ignore[reportUnusedImport]

            private.WANDB.check()
        self._connected()

    def connect(self) -> None:
        """Looks for credentials, unless runs stay on this machine; opening a run reaches the server."""
        run_settings.log_in(self._connected(), self._options)

    def local_storage(self) -> LocalStorage:
        """The folder of the runs' files, also of runs that are sent to a server."""
        folder = self._options.get("root_dir") or os.environ.get("WANDB_DIR") or ""
        return LocalStorage(Path(self._folder, folder, "wandb"), made_by_connect=False)

    def open_run(self, run: RunInfo) -> str:
        """Finds or creates the run; for one that is open already, updates name and tags."""
        self._infos[run.id] = run
        if (opened := self._runs.get(run.id)) is None:
            opened = self._open(run)
        else:
            with self._watched(opened.core):
                opened.update(run)
        settings = opened.wandb_run.settings
        return str(settings.sync_dir if opened.wandb_run.offline else settings.run_url)

    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:
        """Logs points, those of one step together; those that W&B has by their numbers are left out."""
        new: list[tuple[str, Sequence[Point]]] = []
        logged: list[tuple[str, int, int]] = []
        with self._open_run(run_id) as run:
            for one in series:
                key = names.metric_key(one.tag, one.rank)
                run.note("metrics", key, f"{one.tag}/rank_{one.rank}" if one.rank else one.tag)
                if (first := one.sequence) is None or not one.points:
                    new.append((key, one.points))
                    continue
                # NaN and the infinities of a tag have numbers of their own, maybe those of finite points.
                value = one.points[0].value
                numbered = key if math.isfinite(value) else f"{key}\0{value}"
                for start, end in run.ledger.missing(numbered, first, first + len(one.points)):
                    logged.append((numbered, start, end))
                    new.append((key, one.points[start - first : end - first]))
            joined = rows(new)
            for start in range(0, len(joined), ROWS_AT_ONCE):
                run.core.publish(history(run.id, joined[start : start + ROWS_AT_ONCE]))
            for part in logged:
                run.ledger.add(*part)
            run.confirm()
        return Outcome(sum(len(one.points) for one in series))

    def write_record(self, record: Record) -> Outcome:
        """Writes one record of any kind but ``run`` and ``status``."""
        with self._open_run(record.run_id) as run:
            write = records.WRITERS.get(record.kind)
            if write is None:
                _LOGGER.warning("W&B: skipped a record of the unknown kind %r (%s)", record.kind, record.tag)
                return Outcome(rejected=[Problem(record.tag, f"unknown kind of record: {record.kind}")])
            fingerprint = records.row_id(record) if record.kind in records.ROWS else ""
            if fingerprint in run.ledger.records:
                return Outcome(1)
            try:
                with run.core.calls():
                    self._make_media_folder()
                    outcome = write(run, record)
            except DeliveryError as error:
                if isinstance(error.__cause__, (FileNotFoundError, ValueError)):
                    return Outcome(rejected=[Problem(record.tag or record.kind, str(error.__cause__))])
                raise
            if fingerprint:
                run.ledger.add_record(fingerprint)
            run.confirm()
        return outcome or Outcome(1)

    def write_system(self, run_id: str, points: Sequence[SystemPoint]) -> Outcome:
        """Writes measurements of the machine to the run's system panel."""
        with self._open_run(run_id) as run:
            run.core.publish(measurements(run.id, points, run.first_readings))
        return Outcome(len(points))

    def write_file(self, run_id: str, name: str, path: Path) -> None:
        """Stores a file with the run, as ``name`` among its files."""
        with self._open_run(run_id) as run:
            run.store(name, path)
            run.confirm()

    def close_run(self, run_id: str, status: Status) -> Outcome:
        """Ends the run with W&B's exit code for the status: 0, 1, or 255 as after an interrupt."""
        with self._open_run(run_id) as run:
            run.finish(_EXIT_CODES[status], FINISH_SECONDS)
        del self._runs[run_id]
        del self._infos[run_id]
        self._close_unused(run.core)
        return Outcome()

    def close(self) -> None:
        """Ends ``wandb-core``; a run that is open keeps its state, and has what was written."""
        deadline = time.monotonic() + CLOSE_SECONDS
        open_runs, self._runs = list(self._runs.values()), {}
        cores = {run.core for run in open_runs}
        if self._core is not None:
            cores.add(self._core)
        self._core = None
        try:
            for run in open_runs:
                with contextlib.suppress(DeliveryError):
                    run.finish(None, max(0.0, deadline - time.monotonic()))
        finally:
            for core in cores:
                core.close()
            if self._media_folder is not None:
                shutil.rmtree(self._media_folder, ignore_errors=True)

    def _make_media_folder(self) -> None:
        """Makes W&B's folder for media again: it goes as the process exits, or with its temporary folder."""
        if (media := private.MEDIA_FOLDER.get()) is not None and not Path(media.name).exists():
            self._media_folder = Path(media.name)
            self._media_folder.mkdir(mode=0o700, parents=True)

    def _connected(self) -> Core:
        if self._core is None:
            self._core = Core(self._options.get("root_dir") or self._folder)
        return self._core

    def _open(self, run: RunInfo) -> WandbRun:
        core = self._connected()
        if run_settings.log_in(core, self._options):
            run_settings.reach(core)
        with self._watched(core):
            try:
                self._runs[run.id] = runs.open_run(core, self._options, run)
            except DeliveryError:
                # wandb-core goes on trying to open it, and cannot be asked for the same run again.
                self._core = None
                self._close_unused(core)
                raise
        return self._runs[run.id]

    def _close_unused(self, core: Core) -> None:
        if core is not self._core and all(run.core is not core for run in self._runs.values()):
            core.close()

    @contextlib.contextmanager
    def _open_run(self, run_id: str) -> Generator[WandbRun]:
        """The run, which is opened again if its ``wandb-core`` has ended."""
        if run_id not in self._infos:
            raise PermanentError(f"run {run_id} is not open")
        run = self._runs.get(run_id) or self._open(self._infos[run_id])
        with self._watched(run.core):
            yield run

    @contextlib.contextmanager
    def _watched(self, core: Core) -> Generator[None]:
        """After the end of ``wandb-core`` a new one is started, and the run's log tells what it had taken."""
        try:
            yield
        except DeliveryError as error:
            if core.is_alive or core.is_closed:
                raise
            if core is self._core:
                self._core = None
            self._runs = {name: run for name, run in self._runs.items() if run.core is not core}
            core.close()
            raise TransientError(f"wandb-core has ended: {error}") from error
