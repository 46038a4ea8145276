"""What every row needs: a folder, agents of its own, and where to read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.evidence import FilePlace, Place
from tests.faults.trial import Trial
from tests.support import mlflow_content
from tests.support.agents import Agents
from tests.support.clearml_subject import ClearMLSubject
from tests.support.mlflow_server import Proxy, mlflow_server
from tests.support.mlflow_subject import MLflowSubject
from tests.support.subject import StoredPoint


@pytest.fixture
def trial(tmp_path: Path, database: Path, agents: Agents) -> Trial:
    """A row, not started yet, with an MLflow database."""
    return Trial(tmp_path, agents)


class MLflowPlace(MLflowSubject):
    """MLflow, which may never have been reached."""

    def points(self, run_id: str) -> dict[str, list[StoredPoint]]:
        return super().points(run_id) if mlflow_content.runs(self._database) else {}


class ClearMLPlace(ClearMLSubject):
    """ClearML, which may never have been reached."""

    def points(self, run_id: str) -> dict[str, list[StoredPoint]]:
        return super().points(run_id) if self.server.store.tasks else {}


@pytest.fixture
def places(trial: Trial) -> dict[str, Place]:
    """Its backends."""
    return {"mlflow": MLflowPlace(trial.folder), "file": FilePlace(trial)}


class Server(NamedTuple):
    """A real MLflow server."""

    uri: str
    folder: Path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    """One for all rows: each has a run of its own."""
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder, empty_database) as uri:
        yield Server(uri, folder)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """In front of the real server."""
    with Proxy(server.uri).serving() as proxy:
        yield proxy
