"""MLflow, through its own client: every point exact, every record in MLflow's most native form."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

from tracelet_otel.foundation.errors import DeliveryError, PermanentError
from tracelet_otel.foundation.importing import IMPORTING
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.otlp.records import Record, RunInfo, Series, SystemPoint
from tracelet_otel.semconv import Status
from tracelet_otel.tracker.companion import FOLDER, PREFIX
from tracelet_otel.tracker.companion_lines import identities, identity
from tracelet_otel.tracker.interface import Capabilities, LocalStorage, Outcome, Problem
from tracelet_otel_exporters.mlflow import artifacts as mlflow_artifacts
from tracelet_otel_exporters.mlflow import database as mlflow_database
from tracelet_otel_exporters.mlflow import params as mlflow_params
from tracelet_otel_exporters.mlflow import points as mlflow_points
from tracelet_otel_exporters.mlflow import records as mlflow_records
from tracelet_otel_exporters.mlflow import runs as mlflow_runs
from tracelet_otel_exporters.mlflow import system as mlflow_system
from tracelet_otel_exporters.mlflow.connection import (
    Connection,
    RefusedError,
    errors,
    import_mlflow,
    resolve,
)
from tracelet_otel_exporters.mlflow.points import Sample
from tracelet_otel_exporters.mlflow.runs import OpenRun, Place
from tracelet_otel_exporters.shared import safe_names

NAMES_FILE: Final = "tracelet/names.json"

_STATUSES: Final = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
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
        self._connection: Connection | None = None
        self._runs: dict[str, OpenRun] = {}

    def load(self) -> None:
        """Imports MLflow; a SQLite database is opened, or created, which takes MLflow seconds."""
        with errors(), IMPORTING:
            import_mlflow()
        if resolve(self._tracking_uri, self._folder).startswith("sqlite"):
            self.connect()

    def connect(self) -> None:
        """Reaches the backend."""
        if self._connection is None:
            self._connection = Connection(self._tracking_uri, self._folder)
        else:
            self._connection.ping()

    def local_storage(self) -> LocalStorage | None:
        """The database or the folder of runs; None for a server."""
        with errors(), IMPORTING:
            import_mlflow()
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
        open_run = self._runs.get(run.id)
        if open_run is None:
            open_run = mlflow_runs.open_run(connection, run, self._folder)
            mlflow_params.write_tags(connection, open_run, run.tags)
            self._runs[run.id] = open_run
        elif run != open_run.info:
            if run.name and run.name != open_run.info.name:
                mlflow_runs.rename(connection, open_run, run.name)
            mlflow_params.write_tags(connection, open_run, run.tags)
            open_run.info = run
        uri = _without_credentials(connection.uri)
        if connection.is_http:
            return f"{uri}/#/experiments/{open_run.experiment_id}/runs/{open_run.id}"
        return f"{uri} experiment {open_run.experiment_id} run {open_run.id}"

    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:
        """Writes points, 1,000 a request; a repeat of the call leaves the same content."""
        run = self._run(run_id)
        outcome = Outcome()
        asides: set[Place] = set()
        samples = (sample for one in series for sample in mlflow_points.samples(run, one, outcome, asides))
        for batch in mlflow_points.batches(samples):
            outcome.add(self._log(run, batch))
        self._leave_out_known(run, outcome)
        run.asides |= asides  # not before: a call that failed comes again, and its asides with it
        if run.names_changed and any(safe_names.is_cut(key) for key in run.names.get("metrics", ())):
            self._write_names(run)  # a cut name is nowhere else: do not wait for the run's end
        return outcome

    def write_record(self, record: Record) -> Outcome:
        """Writes one record of any kind but ``run`` and ``status``."""
        run = self._run(record.run_id)
        write = mlflow_records.WRITERS.get(record.kind)
        if write is None:
            _LOGGER.warning("MLflow: skipped a record of the unknown kind %r (%s)", record.kind, record.tag)
            return Outcome(rejected=[Problem(record.tag, f"unknown kind of record: {record.kind}")])
        try:
            return write(self._connected(), run, record)
        except (FileNotFoundError, ValueError) as error:
            return Outcome(rejected=[Problem(record.tag or record.kind, str(error))])
        except DeliveryError:
            raise
        except Exception as error:  # reading a media file: any of fsspec's file systems
            raise errors.translated(error) from error

    def write_system(self, run_id: str, points: Sequence[SystemPoint]) -> Outcome:
        """Writes measurements of the machine as MLflow's own system metrics."""
        run = self._run(run_id)
        outcome = Outcome()
        for batch in mlflow_points.batches(mlflow_system.samples(run, points)):
            outcome.add(self._log(run, batch))
        return outcome

    def write_file(self, run_id: str, name: str, path: Path) -> None:
        """Stores a file as an artifact; one of the same name is replaced."""
        run = self._run(run_id)
        mlflow_artifacts.write_file(self._connected(), run, mlflow_artifacts.file_path(run, name), path)

    def close_run(self, run_id: str, status: Status) -> Outcome:
        """Writes the companion files, then the final status and the end time."""
        run = self._run(run_id)
        if run.names_changed:
            self._write_names(run)
        mlflow_runs.finish(self._connected(), run, _STATUSES[status])
        del self._runs[run_id]
        return Outcome()

    def close(self) -> None:
        """Ends the connection; runs that are open stay so."""
        self._runs.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> Connection:
        if self._connection is None:
            raise PermanentError("connect() was not called")
        return self._connection

    def _run(self, run_id: str) -> OpenRun:
        if (run := self._runs.get(run_id)) is None:
            raise PermanentError(f"run {run_id} is not open")
        return run

    def _leave_out_known(self, run: OpenRun, outcome: Outcome) -> None:
        """Leaves out of ``outcome.aside`` what an earlier process has set aside."""
        if not outcome.aside or not run.is_resumed:
            return
        if run.aside_before is None:
            files = mlflow_artifacts.read_all(self._connected(), run, FOLDER, PREFIX)
            run.aside_before = identities(files)
        outcome.aside = [line for line in outcome.aside if identity(line) not in run.aside_before]

    def _log(self, run: OpenRun, batch: Sequence[Sample]) -> Outcome:
        try:
            self._log_batch(run, batch)
        except RefusedError as error:
            if not error.is_invalid:
                raise
            if len(batch) == 1:
                return Outcome(rejected=[Problem(batch[0].tag, str(error))])
            middle = len(batch) // 2
            outcome = self._log(run, batch[:middle])
            outcome.add(self._log(run, batch[middle:]))
            return outcome
        return Outcome(len(batch))

    def _log_batch(self, run: OpenRun, batch: Sequence[Sample]) -> None:
        connection = self._connected()
        with connection.calls():
            if not connection.is_http or not connection.post_points(run.id, mlflow_points.as_json(batch)):
                mlflow_database.log(connection.store, run.id, batch)

    def _write_names(self, run: OpenRun) -> None:
        connection = self._connected()
        if run.is_resumed:  # earlier and other processes have changed names too
            for kind, changed in mlflow_artifacts.read_json(connection, run, NAMES_FILE).items():
                if isinstance(changed, dict):
                    run.names[kind] = {**changed, **run.names.get(kind, {})}
        mlflow_artifacts.write_json(connection, run, NAMES_FILE, run.names)
        run.names_changed = False


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host)).rstrip("/") if host != parts.netloc else uri.rstrip("/")
