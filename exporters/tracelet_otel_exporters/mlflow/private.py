"""Every name of MLflow that is private or in an internal module, and what is lost without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tracelet_otel.foundation.private_names import PrivateNames

MLFLOW: Final = PrivateNames("MLflow", "mlflow", "3.17")

_SLOWER: Final = "points take longer to be written"
_BY_CLIENT: Final = (
    "points are written by MLflow's client: they get the user's active model, and a run's end waits for the "
    "user's asynchronous logging"
)
_ENVIRONMENT: Final = "mlflow.environment_variables"
_DATABASE: Final = "mlflow.store.tracking.sqlalchemy_store"

TRACKING_CLIENT: Final = MLFLOW.optional("mlflow.tracking:MlflowClient()._tracking_client", _BY_CLIENT)
STORE: Final = MLFLOW.optional("mlflow.tracking.client:TrackingServiceClient().store", _BY_CLIENT)
ENGINE: Final = MLFLOW.optional(
    f"{_DATABASE}:SqlAlchemyStore().engine",
    "points take longer to be written, and connections to a database stay open",
)
SANITIZE: Final = MLFLOW.optional(f"{_DATABASE}:SqlAlchemyStore().sanitize_metric_value", _SLOWER)
DATABASE_STORE: Final = MLFLOW.optional(f"{_DATABASE}:SqlAlchemyStore", _SLOWER)
POINTS_TABLE: Final = MLFLOW.optional("mlflow.store.tracking.dbmodels.models:SqlMetric", _SLOWER)

HTTP_REQUEST: Final = MLFLOW.optional("mlflow.utils.rest_utils:http_request", _SLOWER)
VERIFY_RESPONSE: Final = MLFLOW.optional("mlflow.utils.rest_utils:verify_rest_response", _SLOWER)
HOST_CREDENTIALS: Final = MLFLOW.optional(
    "mlflow.store.tracking.rest_store:RestStore().get_host_creds", _SLOWER
)

RESOLVE_TAGS: Final = MLFLOW.optional(
    "mlflow.tracking.context.registry:resolve_tags", "tags of MLflow's plugins are missing"
)
GIT_CONTEXT: Final = MLFLOW.optional(
    "mlflow.tracking.context.git_context:GitRunContext", "MLflow starts git for each new run"
)

TELEMETRY: Final = MLFLOW.optional(
    f"{_ENVIRONMENT}:MLFLOW_DISABLE_TELEMETRY",
    "MLflow sends telemetry of our calls, unless it is told not to",
)
PRINTING: Final = MLFLOW.optional(
    f"{_ENVIRONMENT}:MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "MLflow prints URLs of runs on stdout"
)
PROGRESS: Final = MLFLOW.optional(
    f"{_ENVIRONMENT}:MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "MLflow shows progress bars on stderr"
)
TIMEOUT: Final = MLFLOW.optional(
    f"{_ENVIRONMENT}:MLFLOW_HTTP_REQUEST_TIMEOUT", "a server that hangs is given up after 120 s, not 30 s"
)
RETRIES: Final = MLFLOW.optional(
    f"{_ENVIRONMENT}:MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLflow itself retries for four minutes"
)


class ClientStore:
    """What is used of MLflow's store, by its client; for a version without the private store."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def log_batch(self, run_id: str, *points_params_tags: Sequence[Any]) -> None:
        """Writes points, parameters and tags."""
        self._client.log_batch(run_id, *points_params_tags, synchronous=True)

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
    tracking_client = TRACKING_CLIENT.get(client)
    store = None if tracking_client is None else STORE.get(tracking_client)
    return ClientStore(client) if store is None else store


def engine_of(store: Any) -> Any:
    """The SQLAlchemy engine of a store that is a database; None for another store."""
    database_store = DATABASE_STORE.get()
    is_database = database_store is not None and isinstance(store, database_store)
    return ENGINE.get(store) if is_database else None
