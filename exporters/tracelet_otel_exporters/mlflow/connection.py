"""The connection to one MLflow: import, settings that hold for our calls only, errors as types.

MLflow has no settings per client: time-outs, retries, telemetry and the URLs that it prints come
from the process's environment. Changing that would change the user's own MLflow, so the few
variables that matter are overridden for the calling thread, while a call of ours is under way.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from tracelet_otel.foundation.errors import DeliveryError, PermanentError, TransientError
from tracelet_otel.foundation.importing import IMPORTING, all_or_nothing, without
from tracelet_otel.foundation.locks import acquire
from tracelet_otel_exporters.mlflow import private
from tracelet_otel_exporters.shared.client_errors import TRANSIENT_STATUS, ClientErrors, retry_after

_ALWAYS: Final = ((private.TELEMETRY, True), (private.PRINTING, True), (private.PROGRESS, False))
"""Ours in our calls, whatever the environment says. A progress bar would be shown for each file read back."""
_DEFAULTS: Final = ((private.TIMEOUT, 30), (private.RETRIES, 0))
"""Ours in our calls, unless the environment sets them: the user's value wins.

Seconds, where MLflow's own are 120; and attempts, where its own are 7, in 4 minutes: the delivery retries.
"""

_TRANSIENT_CODES: Final = {
    *("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"),
    *("ABORTED", "CANCELLED", "RESOURCE_CONFLICT"),
}
# MLflow's handlers on these loggers write to stderr; alembic reports each step of a new database.
_LOGGERS: Final = (
    *("mlflow.store.db.utils", "mlflow.utils.credentials", "mlflow.tracking.context.registry"),
    *("alembic.runtime.migration", "alembic.runtime.plugins.setup"),
)
_FOREIGN_LOGGERS: Final = ("sqlalchemy.engine", "alembic", "huey")

_GONE: Final = "RESOURCE_DOES_NOT_EXIST"
_T = TypeVar("_T")
_IN_OUR_CALL: Final = ContextVar("_IN_OUR_CALL", default=False)


def _is_not_ours(_: logging.LogRecord) -> bool:
    """Keeps what our calls make MLflow log off the user's terminal; errors reach us as exceptions."""
    return not _IN_OUR_CALL.get()


class MLflowRefusedError(PermanentError):
    """MLflow's own refusal, with its error code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.is_invalid = code == "INVALID_PARAMETER_VALUE"
        """Whether something in the request, and not the run as a whole, is what MLflow refuses."""
        self.is_gone = code == _GONE
        """Whether the run or the experiment is deleted or was never there."""


class MLflowConnection:
    """An ``MlflowClient`` of our own and the store below it, reached in the constructor.

    Args:
        tracking_uri: MLflow's tracking URI, or None for MLflow's own resolution.
        folder: what relative paths are relative to.

    Raises:
        TransientError: MLflow cannot be reached.
        PermanentError: MLflow is not installed, or refuses.
    """

    def __init__(self, tracking_uri: str | None, folder: Path) -> None:
        self.folder = folder
        self.uri = resolve(tracking_uri, folder)
        from mlflow.tracking import MlflowClient

        _override()
        self.is_http = urlsplit(self.uri).scheme in {"http", "https"}
        with self.calls(), _sole_creator(self.uri):
            self.client: Any = MlflowClient(self.uri)
            self.store: Any = private.store_of(self.client)
        self.ping()

    def ping(self) -> None:
        """Asks for one experiment, which every backend answers quickly."""
        with self.calls():
            self.client.search_experiments(max_results=1)

    @contextlib.contextmanager
    def calls(self) -> Generator[None]:
        """Calls of ours to MLflow: our settings, no output, and errors raised as delivery errors."""
        before = _IN_OUR_CALL.set(True)
        try:
            with errors():
                yield
        finally:
            _IN_OUR_CALL.reset(before)

    def close(self) -> None:
        """Closes the idle connections to a database. Others of the same MLflow get new ones by themselves.

        A server's stay with MLflow, which shares and reuses them and drops them with the process.
        """
        engine = None if self.is_http else private.engine_of(self.store)
        if engine is not None and ":memory:" not in self.uri:  # whose database is the connection
            with self.calls():
                engine.dispose()

    def set_status(self, run_id: str, status: str, end_time_ms: int | None, name: str | None) -> None:
        """Sets a run's status, and its end time or its name."""
        from mlflow.entities import RunStatus

        with self.calls():
            self.store.update_run_info(run_id, RunStatus.from_string(status.upper()), end_time_ms, name)

    def post_points(self, run_id: str, metrics: Sequence[Mapping[str, object]]) -> bool:
        """Posts points to MLflow's REST API: a fifth of the CPU time of its client, which encodes twice.

        Returns: False where this MLflow has no such way; then nothing was posted.
        """
        post, verify = private.HTTP_REQUEST.get(), private.VERIFY_RESPONSE.get()
        credentials = private.HOST_CREDENTIALS.get(self.store)
        if post is None or verify is None or credentials is None:
            return False
        endpoint, body = "/api/2.0/mlflow/runs/log-batch", {"run_id": run_id, "metrics": metrics}
        response = post(credentials(), endpoint, "POST", raise_on_status=False, json=body)
        if response.status_code in TRANSIENT_STATUS:
            raise TransientError(f"MLflow answered {response.status_code}", retry_after(response.headers))
        verify(response, endpoint)
        return True


def _import_mlflow() -> None:
    """Imports MLflow without what its import would do to a process that did not ask for MLflow.

    That is telemetry, and handlers on the loggers of SQLAlchemy, alembic and huey.
    """
    if "mlflow" in sys.modules:
        importlib.import_module("mlflow")  # waits where another thread is importing it
        return
    loggers = [logging.getLogger(name) for name in _FOREIGN_LOGGERS]
    states = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    # The second is what MLflow in a parent process left; with telemetry off its import would remove it.
    names = ("MLFLOW_DISABLE_TELEMETRY", "_MLFLOW_TELEMETRY_SESSION_ID")
    before = {name: os.environ.get(name) for name in names}
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    try:
        # The package mlflow-skinny has the client without them. They take a third of its memory.
        with contextlib.suppress(ImportError), all_or_nothing("mlflow"), without("pandas", "pyarrow"):
            importlib.import_module("mlflow")
        with all_or_nothing("mlflow"):
            importlib.import_module("mlflow")
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        for logger, (handlers, level, propagate) in zip(loggers, states, strict=True):
            logger.handlers = handlers
            logger.setLevel(level)
            logger.propagate = propagate


def resolve(tracking_uri: str | None, folder: Path) -> str:
    """Imports MLflow, and returns the tracking URI that it would use in ``folder``, with absolute paths."""
    with errors(), IMPORTING:
        _import_mlflow()
    import mlflow

    if tracking_uri is None and mlflow.is_tracking_uri_set():
        tracking_uri = mlflow.get_tracking_uri()
    if not tracking_uri:
        # As mlflow.tracking._tracking_service.utils: an old folder of runs, else a new database.
        old = any(folder.glob("mlruns/[0-9]*/meta.yaml"))
        tracking_uri = "mlruns" if old else "sqlite:///mlflow.db"
    scheme, separator, path = tracking_uri.partition(":///")
    if scheme.startswith("sqlite") and separator:
        name, question, query = path.partition("?")
        if name and name != ":memory:":
            return f"{scheme}:///{folder / name}{question}{query}"
    elif ":" not in tracking_uri and tracking_uri not in {"databricks", "databricks-uc", "uc"}:
        return (folder / tracking_uri).as_uri()
    return tracking_uri


def _own_error(error: Exception) -> DeliveryError | None:
    """The delivery error for one of MLflow's own, or for the answer of a server."""
    text = f"{type(error).__name__}: {error}"
    code = getattr(error, "error_code", None)
    if code is not None:
        return _translated_mlflow(str(code), str(error))
    response = getattr(error, "response", None)
    if response is not None and hasattr(response, "status_code"):
        if response.status_code in TRANSIENT_STATUS:
            return TransientError(text, retry_after(response.headers))
        return PermanentError(text)
    return None


def _translated_mlflow(code: str, text: str) -> DeliveryError:
    transient = (
        code in _TRANSIENT_CODES
        or "failed with exception" in text  # no connection, or one of the states above: see http_request
        or "failed with timeout" in text
        or "IntegrityError" in text  # another process wrote the same row at the same time
        or any(f"error code {status} " in text for status in TRANSIENT_STATUS)
    )
    if transient and "InvalidURL" not in text:
        return TransientError(text)
    if code == _GONE or "must be in the 'active' state" in text:
        return MLflowRefusedError(f"the run or its experiment was deleted in MLflow: {text}", _GONE)
    return MLflowRefusedError(text, code)


def refused_ones(items: Sequence[_T], write: Callable[[Sequence[_T]], None]) -> list[tuple[_T, str]]:
    """Writes items together, and each on its own where MLflow refuses them together.

    Returns: those that it refuses on their own, each with the reason.
    """
    try:
        write(items)
    except MLflowRefusedError as error:
        if not error.is_invalid:
            raise
        if len(items) == 1:
            return [(items[0], str(error))]
        middle = len(items) // 2
        return refused_ones(items[:middle], write) + refused_ones(items[middle:], write)
    return []


errors: Final = ClientErrors(
    "MLflow", "mlflow", ("Throttl", "Unavailable", "Protocol", "Operational"), _own_error
)
"""``with errors():`` raises what MLflow and the libraries below it raise as delivery errors."""


def _override() -> None:
    for name, value in (*_ALWAYS, *_DEFAULTS):
        variable = name.get()
        if variable is not None and "get" not in vars(variable):
            variable.get = _scoped(variable, value, always=(name, value) in _ALWAYS)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_not_ours)  # once: a logger keeps a filter only once


def _scoped(variable: Any, value: object, *, always: bool) -> Any:
    original = variable.get
    return lambda: value if _IN_OUR_CALL.get() and (always or not variable.is_set()) else original()


def _sole_creator(uri: str) -> contextlib.ExitStack:
    """Lets one process at a time create a SQLite database: MLflow's migrations do not wait for others."""
    stack = contextlib.ExitStack()
    if uri.startswith("sqlite") and os.name != "nt":
        name = f"tracelet-mlflow-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
        lock = acquire(Path(tempfile.gettempdir()) / name, wait=-1)
        assert lock is not None, "waits without end"
        stack.callback(lock.release)
    return stack
