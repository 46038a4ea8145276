"""MLflow, through its own client: every point exact, every record in MLflow's most native form."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.otlp.records import Record, RunInfo, Series, SystemPoint
from tracelet_otel.semconv import Status
from tracelet_otel.tracker.companion import FOLDER, PREFIX
from tracelet_otel.tracker.companion_lines import identities, identity
from tracelet_otel.tracker.interface import Capabilities, LocalStorage, Outcome, Problem
from tracelet_otel_exporters.mlflow import artifacts
from tracelet_otel_exporters.mlflow.connection import MLflowConnection, errors, resolve
from tracelet_otel_exporters.mlflow.points import samples, system_samples, write_samples
from tracelet_otel_exporters.mlflow.records import WRITERS, write_tags
from tracelet_otel_exporters.mlflow.runs import MLflowRun, Place, open_run, relate
from tracelet_otel_exporters.shared import safe_names

NAMES_FILE: Final = "tracelet/names.json"

_LOGGER: Final = get_logger(__name__)


class MLflowTracker:
    """MLflow as a :class:`~tracelet_otel.tracker.interface.Tracker`.

    It neither sets nor uses what belongs to the user's own ``mlflow``: the tracking URI, the active
    run, experiment and model, logging and telemetry.

    Args:
        tracking_uri: MLflow's tracking URI. None: ``MLFLOW_TRACKING_URI``, else MLflow's default,
            ``sqlite:///mlflow.db`` in the folder that is current now (and stays it after a chdir).
    """

    name = "mlflow"
    library = "mlflow"
    capabilities = Capabilities(
        time_resolution_ns=1_000_000,
        keeps_nan=True,
        keeps_infinity=False,  # its SQL stores hold the largest float instead
        keeps_repeated_step=True,
        idempotent_retry=True,
    )

    def __init__(self, tracking_uri: str | None = None) -> None:
        if not isinstance(tracking_uri, (str, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"tracking_uri must be text, got {tracking_uri!r}")
        self._tracking_uri = tracking_uri
        try:
            self._folder = Path.cwd()
        except OSError:  # a folder that was deleted
            self._folder = Path(tempfile.gettempdir())
        self._connection: MLflowConnection | None = None
        self._runs: dict[str, MLflowRun] = {}

    def load(self) -> None:
        """Imports MLflow; a SQLite database is opened, or created, which takes MLflow seconds."""
        if resolve(self._tracking_uri, self._folder).startswith("sqlite"):
            self.connect()

    def connect(self) -> None:
        """Reaches the backend."""
        if self._connection is None:
            self._connection = MLflowConnection(self._tracking_uri, self._folder)
        else:
            self._connection.ping()

    def local_storage(self) -> LocalStorage | None:
        """The database or the folder of runs; None for a server."""
        uri = resolve(self._tracking_uri, self._folder)
        path = ""
        if uri.startswith("sqlite"):
            path = uri.partition(":///")[2].partition("?")[0]
        elif uri.startswith("file:"):
            path = url2pathname(urlsplit(uri).path)
        return LocalStorage(Path(path)) if path not in ("", ":memory:") else None

    def open_run(self, run: RunInfo) -> str:
        """Finds or creates the run; for one that is open already, updates name and tags."""
        connection = self._connected()
        known = self._runs.get(run.id)
        opened = known or open_run(connection, run)
        if known is None or run != known.info:
            if run.name and run.name != opened.info.name:
                with connection.calls():
                    connection.client.update_run(opened.id, name=run.name)
            write_tags(opened, run.tags)
            relate(opened, run, self._runs)
            opened.info = run
            self._runs[run.id] = opened
        uri = _without_credentials(connection.uri)
        if connection.is_http:
            return f"{uri}/#/experiments/{opened.experiment_id}/runs/{opened.id}"
        return f"{uri} experiment {opened.experiment_id} run {opened.id}"

    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:
        """Writes points, 1,000 a request; a repeat of the call leaves the same content."""
        run = self._run(run_id)
        outcome = Outcome()
        asides: set[Place] = set()
        outcome.add(write_samples(run, (s for one in series for s in samples(run, one, outcome, asides))))
        if outcome.aside and run.is_resumed:  # what an earlier process has set aside is left out
            if run.aside_before is None:
                files = artifacts.read_all(run, FOLDER, lambda path: path.startswith(PREFIX))
                run.aside_before = identities(files)
            outcome.aside = [line for line in outcome.aside if identity(line) not in run.aside_before]
        run.asides |= asides  # not before: a call that failed comes again, and its asides with it
        if run.names_changed and any(safe_names.is_cut(key) for key in run.names.get("metrics", ())):
            _write_names(run)  # a cut name is nowhere else: do not wait for the run's end
        return outcome

    def write_record(self, record: Record) -> Outcome:
        """Writes one record of any kind but ``run`` and ``status``."""
        run = self._run(record.run_id)
        write = WRITERS.get(record.kind)
        if write is None:
            _LOGGER.warning("MLflow: skipped a record of the unknown kind %r (%s)", record.kind, record.tag)
            return Outcome(rejected=[Problem(record.tag, f"unknown kind of record: {record.kind}")])
        with errors():  # also of fsspec's file systems, which have media files
            try:
                return write(run, record) or Outcome(1)
            except (FileNotFoundError, ValueError) as error:
                return Outcome(rejected=[Problem(record.tag or record.kind, str(error))])

    def write_system(self, run_id: str, points: Sequence[SystemPoint]) -> Outcome:
        """Writes measurements of the machine as MLflow's own system metrics."""
        run = self._run(run_id)
        return write_samples(run, system_samples(run, points))

    def write_file(self, run_id: str, name: str, path: Path) -> None:
        """Stores a file as an artifact; one of the same name is replaced."""
        run = self._run(run_id)
        artifacts.write(run, artifacts.file_path(run, name), path)

    def close_run(self, run_id: str, status: Status) -> Outcome:
        """Writes the companion files, then the final status and the end time."""
        run = self._run(run_id)
        if run.names_changed:
            _write_names(run)
        run.connection.set_status(run.id, status, time.time_ns() // 1_000_000, None)
        del self._runs[run_id]
        return Outcome()

    def close(self) -> None:
        """Ends the connection; runs that are open stay so."""
        self._runs.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> MLflowConnection:
        if self._connection is None:
            raise PermanentError("connect() was not called")
        return self._connection

    def _run(self, run_id: str) -> MLflowRun:
        if (run := self._runs.get(run_id)) is None:
            raise PermanentError(f"run {run_id} is not open")
        return run


def _write_names(run: MLflowRun) -> None:
    if run.is_resumed:  # earlier and other processes have changed names too
        for kind, changed in artifacts.read_json(run, NAMES_FILE).items():
            if isinstance(changed, dict):
                run.names[kind] = {**changed, **run.names.get(kind, {})}
    artifacts.write_json(run, NAMES_FILE, run.names)
    run.names_changed = False


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host)).rstrip("/") if host != parts.netloc else uri.rstrip("/")
