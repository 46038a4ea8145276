from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.scripts import clean_environment, run_script

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


@pytest.fixture(autouse=True)
def _steady_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting from outside, our failures raise, nothing is written outside, and nothing is left behind."""
    environment = dict(os.environ)
    for name in os.environ.keys() - clean_environment().keys():
        if name != "PYTEST_CURRENT_TEST":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("TRACELET_TEST_RAISE", "1")
    monkeypatch.setenv("TRACELET_ISOLATION", "thread")  # tests/agent is about the default
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
