"""The demo: that it passes, and that it would not if anything differed."""

from __future__ import annotations

import re
import shutil
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from examples import demo
from tests.support import mlflow_content as mlflow
from tests.support.clearml_server import ClearMLServer
from tests.support.scripts import run_command

DEMO = Path(demo.__file__)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_finds_everything_in_mlflow(tmp_path: Path, empty_database: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    shutil.copy(empty_database, output / "mlflow.db")
    done = run_command(
        [sys.executable, str(DEMO), "--output", str(output), "--epochs", "2"], tmp_path, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        match[1]: (int(match[2]), int(match[3]), match[4])
        for match in re.finditer(r"^(\S+) +(\d+) +(\d+)  (yes|NO)$", done.stdout, re.M)
    }
    assert rows["train/loss"][2] == "yes"
    assert rows["learning_rate"] == (46, 46, "yes")
    assert rows["histograms"] == (9, 9, "yes")
    assert rows["images"] == (4, 4, "yes")
    assert rows["parameters"] == (4, 4, "yes")
    assert {row[2] for row in rows.values()} == {"yes"}
    assert done.stdout.count("delivered all") == 2
    assert f"mlflow ui --backend-store-uri sqlite:///{output / 'mlflow.db'}" in done.stdout
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()} == {
        "output"
    }

    database = output / "mlflow.db"
    assert [run.status for run in mlflow.runs(database)] == ["FINISHED", "FINISHED"]
    (folder,) = output.glob("logs/*/tensorboard_digits")
    assert_a_change_is_noticed(database, folder)


def assert_a_change_is_noticed(database: Path, folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    run = mlflow.runs(database)[0]
    run_id = mlflow.tags(database, run.id)["tracelet.run.id"]
    assert demo.check(client, "tensorboard_digits", run_id, folder)
    with sqlite3.connect(database) as connection:
        changed = connection.execute(
            "update metrics set value = value + 0.0001 where key = 'train/loss' and step = 3"
        )
        assert changed.rowcount >= 1
    connection.close()
    assert not demo.check(client, "tensorboard_digits", run_id, folder)


@pytest.mark.parametrize(
    ("step", "value", "time", "same"),
    [(7, 0.1, 1000.9, True), (8, 0.1, 1000.0, False), (7, 0.1000001, 1000.0, False), (7, 0.1, 1001.1, False)],
)
def test_the_demo_compares_step_value_and_time(step: int, value: float, time: float, same: bool) -> None:
    logged = [(7, struct.pack("<f", 0.1), 1000.0)]
    assert demo.same_points(logged, [(step, struct.pack("<f", value), time)], 1.0) is same


def test_the_demo_notices_a_missing_point() -> None:
    logged = [(7, struct.pack("<f", 0.1), 1000.0)]
    assert not demo.same_points(logged, [], 1.0)


EXAMPLES = DEMO.parent / "trackers"


def run_example(name: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_command([sys.executable, str(EXAMPLES / name)], folder, variables)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mlflow", "wandb", "aim", "clearml"])
def test_one_script_a_tracker(backend: str, tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    with closing(ClearMLServer()) as server:
        done = run_example(f"to_{backend}.py", tmp_path, WANDB_MODE="offline", **server.variables())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("loss ")
    assert f"{backend}: captured 200 points and 2 records, delivered all -> " in done.stderr


@pytest.mark.slow
def test_one_script_for_all_four(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    with closing(ClearMLServer()) as server:
        done = run_example("to_all.py", tmp_path, WANDB_MODE="offline", **server.variables())
    assert done.returncode == 0, done.stderr
    amounts = {
        "mlflow": "200 points and 2 records",
        "wandb": "100 points and 2 records",
        "aim": "200 points and 1 record",
        "clearml": "100 points and 1 record",
    }
    for backend, amount in amounts.items():
        assert f"{backend}: captured {amount}, delivered all -> " in done.stderr, done.stderr


@pytest.mark.slow
def test_a_sweep_is_several_runs(tmp_path: Path, database: Path) -> None:
    done = run_example("sweep.py", tmp_path)
    assert done.returncode == 0, done.stderr
    runs = mlflow.runs(database)
    assert {(run.name, run.status) for run in runs} == {
        (f"learning-rate-{rate}", "FINISHED") for rate in (0.01, 0.1, 0.5)
    }
    for run in runs:
        assert sorted(len(points) for points in mlflow.points(database, run.id).values()) == [100, 100]
