"""Whole scripts into a real ``mlflow server``, and into one that never answers."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

from mlflow import MlflowClient

from tests.support.scripts import run_script

SCRIPT = """
import numpy as np
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter("logs") as writer:
    for step in range(5_000):
        writer.add_scalar(f"tag{step % 5}", step / 7, step)
    writer.add_image("image", np.zeros((3, 4, 4)), 1)
    writer.add_hparams({"lr": 0.1}, {"accuracy": 0.9})
print("trained")
"""


def test_a_script_into_a_server(tmp_path: Path, server_uri: str) -> None:
    variables = {
        "MLFLOW_TRACKING_URI": server_uri,
        "TRACELET_PROJECT": "whole",
        "TRACELET_EXPERIMENT": "script",
    }
    done = run_script(tmp_path, SCRIPT, variables=variables)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert "captured 5,001 points and 3 records, delivered all" in done.stderr
    location = re.search(r"-> (http\S+/#/experiments/\d+/runs/(\w+))", done.stderr)
    assert location, done.stderr
    client = MlflowClient(server_uri)
    run = client.get_run(location[2])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1"}
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "whole/script"
    for tag in range(5):
        history = client.get_metric_history(run.info.run_id, f"tag{tag}")
        steps = sorted(metric.step for metric in history)
        assert steps == list(range(tag, 5_000, 5))
        assert all(abs(metric.value - metric.step / 7) <= 1e-6 * metric.value for metric in history)
    images = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert any(path.endswith(".png") for path in images)


def test_a_server_that_never_answers_costs_the_deadline_and_no_more(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code = SCRIPT.replace('print("trained")', "import time; print(time.time())")
        done = run_script(
            tmp_path, code, variables={"MLFLOW_TRACKING_URI": uri, "TRACELET_SHUTDOWN_TIMEOUT": "2"}
        )
        after = time.time() - float(done.stdout)
    assert done.returncode == 0
    assert after < 20  # the import of MLflow, on a busy machine, and the 2 seconds
    assert "delivered nothing, spooled 5,001 points and 3 records: no answer within 2 s" in done.stderr
    assert "Traceback" not in done.stderr
