"""Whole scripts into a real ``mlflow server``, and into one that never answers."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.scripts import check_failures, clean_environment, run_script, write_script

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


SIDE_BY_SIDE = """
import sys, threading, time
from pathlib import Path
import tracelet_otel

own, other = sys.argv[1:]
tracelet_otel.configure(project="side", experiment="by-side", run_name="shared", run_id="side-shared")
together = threading.Barrier(3)

def train(number):
    with tracelet_otel.run(f"{own}{number}"):
        tracelet_otel.log_params({"number": number, "own": own})
        for step in range(300):
            if step in (1, 200):
                together.wait()  # all of them are open
            tracelet_otel.log_scalar("loss", number + step / 8, step, wall_time=1.7e9 + step / 8)
            tracelet_otel.log_scalar(f"only/{own}{number}", -step, step, wall_time=1.7e9 + step)
        if number == 2:
            sys.exit("only this thread")

tracelet_otel.log_scalar(own, 0, 0, wall_time=1.7e9)
Path(own).touch()
while not Path(other).exists():
    time.sleep(0.01)
for step in range(1, 300):
    tracelet_otel.log_scalar(own, step / 4, step, wall_time=1.7e9 + step)
threads = [threading.Thread(target=train, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_runs_in_threads_and_processes_at_once(tmp_path: Path, server_uri: str) -> None:
    """Three runs in a process, of which one fails, and one of both processes."""
    script = write_script(tmp_path, SIDE_BY_SIDE)
    environment = clean_environment(MLFLOW_TRACKING_URI=server_uri)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *names],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for names in (("a", "b"), ("b", "a"))
    ]
    for process in processes:
        out, err = process.communicate(timeout=100)
        assert (process.returncode, out) == (0, ""), err
        check_failures(err)
        assert "captured 2,100 points and 3 records, delivered all -> " in err

    client = MlflowClient(server_uri)
    experiment = client.get_experiment_by_name("side/by-side")
    assert experiment is not None
    runs = {str(run.info.run_name): run for run in client.search_runs([experiment.experiment_id])}
    expected: dict[str, dict[str, list[tuple[int, float, int]]]] = {
        f"{own}{number}": {
            "loss": [(step, number + step / 8, 1_700_000_000_000 + step * 125) for step in range(300)],
            f"only/{own}{number}": [(step, -step, (1_700_000_000 + step) * 1000) for step in range(300)],
        }
        for own in "ab"
        for number in range(3)
    }
    expected["shared"] = {
        own: [(step, step / 4, (1_700_000_000 + step) * 1000) for step in range(300)] for own in "ab"
    }
    assert runs.keys() == expected.keys()
    for name, run in runs.items():
        tags = [tag for tag in run.data.metrics if not tag.startswith("system/")]
        found = {
            tag: sorted(
                (metric.step, metric.value, metric.timestamp)
                for metric in client.get_metric_history(run.info.run_id, tag)
            )
            for tag in tags
        }
        assert found == expected[name], name
        assert run.info.status == ("FAILED" if name[1:] == "2" else "FINISHED"), name
        params = {} if name == "shared" else {"own": name[0], "number": name[1]}
        assert run.data.params == params


@pytest.mark.in_thread("the default's agent goes on with what is left")
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
