"""A real MLflow: a SQLite database a test, and one `mlflow server` a session."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mlflow_server import Proxy, mlflow_server
from tracelet_otel_exporters.clearml import runs as clearml_runs
from tracelet_otel_exporters.mlflow import runs as mlflow_runs
from tracelet_otel_exporters.mlflow.tracker import MLflowTracker

with warnings.catch_warnings():
    # MLflow's models still use what SQLAlchemy deprecates; here warnings are errors.
    warnings.simplefilter("ignore")
    import mlflow.store.tracking.sqlalchemy_store  # pyright: ignore[reportUnusedImport]  # noqa: F401


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_runs, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(clearml_runs, "SETTLE_SECONDS", 0.0)


@pytest.fixture
def sqlite_uri(database: Path) -> str:
    return f"sqlite:///{database}"


@pytest.fixture(scope="session")
def server_uri(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server"), empty_database) as uri:
        yield uri


@pytest.fixture(params=["sqlite", "server"])
def uri(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_uri")


@pytest.fixture
def new_tracker() -> Iterator[Callable[[str], MLflowTracker]]:
    """Makes connected trackers, and closes their databases in the end."""
    made: list[MLflowTracker] = []

    def make(uri: str) -> MLflowTracker:
        made.append(MLflowTracker(uri))
        made[-1].connect()
        return made[-1]

    yield make
    for tracker in made:
        if not tracker._connected().is_http:
            tracker._connected().client._tracking_client.store._dispose_engine()


@pytest.fixture
def tracker(uri: str, new_tracker: Callable[[str], MLflowTracker]) -> MLflowTracker:
    return new_tracker(uri)


@pytest.fixture
def proxy(server_uri: str) -> Iterator[Proxy]:
    with Proxy(server_uri).serving() as server:
        yield server
