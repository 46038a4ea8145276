"""Every name of MLflow that is private or in an internal module, and what is lost without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tracelet_otel_exporters.shared.private_names import PrivateName

_SLOWER: Final = "Points take longer to be written."
_ENVIRONMENT: Final = "mlflow.environment_variables"
_BY_CLIENT: Final = (
    "Points are written by MLflow's client: they get the user's active model, and a run's end waits for the "
    "user's asynchronous logging."
)

TRACKING_CLIENT: Final = PrivateName("MlflowClient", "_tracking_client", _BY_CLIENT)
STORE: Final = PrivateName("MlflowClient._tracking_client", "store", _BY_CLIENT)
ENGINE: Final = PrivateName("SqlAlchemyStore", "engine", _SLOWER + " Connections to a database stay open.")
SANITIZE: Final = PrivateName("SqlAlchemyStore", "sanitize_metric_value", _SLOWER)
DATABASE_STORE: Final = PrivateName("mlflow.store.tracking.sqlalchemy_store", "SqlAlchemyStore", _SLOWER)
POINTS_TABLE: Final = PrivateName("mlflow.store.tracking.dbmodels.models", "SqlMetric", _SLOWER)

HTTP_REQUEST: Final = PrivateName("mlflow.utils.rest_utils", "http_request", _SLOWER)
VERIFY_RESPONSE: Final = PrivateName("mlflow.utils.rest_utils", "verify_rest_response", _SLOWER)
HOST_CREDENTIALS: Final = PrivateName("RestStore", "get_host_creds", _SLOWER)

RESOLVE_TAGS: Final = PrivateName(
    "mlflow.tracking.context.registry", "resolve_tags", "Tags of MLflow's plugins are missing."
)
GIT_CONTEXT: Final = PrivateName(
    "mlflow.tracking.context.git_context", "GitRunContext", "MLflow starts git for each new run."
)

TELEMETRY: Final = PrivateName(
    _ENVIRONMENT, "MLFLOW_DISABLE_TELEMETRY", "MLflow sends telemetry of our calls, unless it is told not to."
)
PRINTING: Final = PrivateName(
    _ENVIRONMENT, "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "MLflow prints URLs of runs on stdout."
)
PROGRESS: Final = PrivateName(
    _ENVIRONMENT, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "MLflow shows progress bars on stderr."
)
TIMEOUT: Final = PrivateName(
    _ENVIRONMENT, "MLFLOW_HTTP_REQUEST_TIMEOUT", "A server that hangs is given up after 120 s, not 30 s."
)
RETRIES: Final = PrivateName(
    _ENVIRONMENT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLflow itself retries for four minutes."
)


class ClientStore:
    """What is used of MLflow's store, by its client; for a version without the private store."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def log_batch(
        self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]
    ) -> None:
        """Writes points, parameters and tags."""
        self._client.log_batch(run_id, metrics, params, tags, synchronous=True)

    def update_run_info(self, run_id: str, status: Any, end_time: int | None, name: str | None) -> None:
        """Sets the status, and the end time or the name."""
        from mlflow.entities import RunStatus

        if end_time is not None:
            self._client.set_terminated(run_id, RunStatus.to_string(status), end_time)
        else:
            self._client.update_run(run_id, RunStatus.to_string(status), name)


def store_of(client: Any) -> Any:
    """The store below a client, whose interface is that of MLflow's tracking plugins.

    The client's methods above it would add the user's active model to metrics, and stop the user's
    asynchronous logging when a run ends.
    """
    tracking_client = TRACKING_CLIENT.of(client)
    store = None if tracking_client is None else STORE.of(tracking_client)
    return ClientStore(client) if store is None else store


def engine_of(store: Any) -> Any:
    """The SQLAlchemy engine of a store that is a database; None for another store."""
    database_store = DATABASE_STORE.imported()
    is_database = database_store is not None and isinstance(store, database_store)
    return ENGINE.of(store) if is_database else None
