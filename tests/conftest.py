from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.agents import Agents
from tests.support.scripts import OURS, clean_environment, run_script
from tracelet_otel.foundation import guard

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fast tests first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_collection_finish() -> None:
    """What the imports made stays: to look for garbage in it takes half a second each time."""
    gc.freeze()


@pytest.fixture(scope="session")
def temporary_folder() -> Iterator[Path]:
    """Everything temporary of all tests; pytest's own has too long a path for sockets."""
    with tempfile.TemporaryDirectory(prefix="tests-") as folder:
        yield Path(folder)


@pytest.fixture
def agents(temporary_folder: Path) -> Iterator[Agents]:
    """The agents of the test. None of them, and no file of one, may be left at its end."""
    with tempfile.TemporaryDirectory(prefix="agents-", dir=temporary_folder) as folder:
        made = Agents(Path(folder))
        yield made
        sys.stderr.write(made.log())  # shown where the test has failed
        made.finish()


@pytest.fixture(autouse=True)
def _steady_environment(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, agents: Agents
) -> Iterator[None]:
    """No setting from outside, our failures raise, nothing is written outside, and nothing is left behind."""
    environment = dict(os.environ)
    monkeypatch.delenv("TRACELET_ISOLATION", raising=False)
    for name in os.environ.keys() - clean_environment().keys() - {"PYTEST_CURRENT_TEST"}:
        monkeypatch.delenv(name)
    for name, value in OURS.items():
        monkeypatch.setenv(name, value)
    marker = request.node.get_closest_marker("in_thread")
    if marker is not None:
        assert marker.args, "in_thread needs a reason"
        monkeypatch.setenv("TRACELET_ISOLATION", "thread")
    monkeypatch.setattr(guard, "raises", True)
    monkeypatch.setattr(guard, "_last", {})  # what another test logged is not logged again for a minute
    monkeypatch.setenv("TMPDIR", str(agents.folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield
    import tracelet_otel
    from tracelet_otel.instrumentation.instrumentors import switch_off
    from tracelet_otel.settings import declare

    tracelet_otel.shutdown()
    declare(None)
    switch_off(())
    # What the tested code sets is the process's own, not the next test's.
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    if "mlflow" in sys.modules:  # so is the tracking URI, which Lightning's MLFlowLogger sets for all
        import mlflow

        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow database: making one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("template")
    done = run_script(
        folder,
        "from mlflow import MlflowClient\nMlflowClient('sqlite:///mlflow.db').search_experiments()",
        zero_code=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "mlflow.db"


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    """MLflow's default database in the test's folder, made already."""
    return Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))
