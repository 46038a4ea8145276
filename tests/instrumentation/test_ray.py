"""A run in a worker of Ray ends as its trial or its tasks did, however Ray ends the worker."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import event_files
from tests.support.agents import Agents
from tests.support.mlflow_subject import MLflowSubject
from tests.support.recorded import TO_A_FILE, recorded
from tests.support.scripts import ray_in, run_script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.version_info >= (3, 14), reason="there is no Ray for it"),
]

SCRIPT = """
import asyncio, os, threading
import ray
from ray import tune
import tracelet_otel

def configure(name):
    tracelet_otel.configure(backends={"mlflow": {"tracking_uri": DATABASE}}, run_id=name, shutdown_timeout=60)

def trial(config):
    from torch.utils.tensorboard import SummaryWriter

    name = config["name"]
    configure(name)
    with SummaryWriter(f"{FOLDER}/logs/{name}") as writer:
        for step in range(1000 if name == "stopped" else 6):
            writer.add_scalar("loss", 0.5**step, step)
            if step in (3, 5, 8):  # Ray kills a worker 0.2 s after its trial: too soon for a busy machine
                writer.flush()
                tracelet_otel.flush(60)
            if step == 3 and name == "raising":
                raise ValueError
            tune.report({"step": step})

def bare_trial(config):
    tracelet_otel.log_scalar("loss", config["lr"] * 2, 0)
    assert tracelet_otel.flush(60)

def log(name):
    configure(name)
    for step in range(3):
        tracelet_otel.log_scalar("loss", step / 2, step)

@ray.remote(max_retries=0)
def task(name):
    log(name)
    if name == "broken task":
        raise ValueError

@ray.remote
class Actor:
    def log(self, name):
        log(name)

    def log_and_raise(self, name):
        log(name)
        raise ValueError

    def log_and_hang(self, name, gate):
        log(name)
        assert tracelet_otel.flush(60)
        ray.get(gate.open.remote())
        threading.Event().wait()

@ray.remote(num_cpus=0)
class Gate:
    def __init__(self):
        self.event = asyncio.Event()

    async def open(self):
        self.event.set()

    async def passed(self):
        await self.event.wait()

def tune_with(function, name, values, stop=lambda _, result: False, **options):
    return tune.Tuner(
        function,
        param_space={name: tune.grid_search(values)},
        tune_config=tune.TuneConfig(**options),
        run_config=tune.RunConfig(storage_path=f"{FOLDER}/results", stop=stop, verbose=0),
    ).fit()

def work_in_actors():
    actors = [Actor.remote() for _ in range(4)]
    gate = Gate.remote()
    actors[2].log_and_hang.remote("killed actor", gate)
    ray.get(gate.passed.remote())
    ray.kill(actors[2])
    ray.get(actors[0].log.remote("actor"))
    ray.wait([actors[1].log_and_raise.remote("broken actor")])
    ray.get(actors[3].log.remote("exiting actor"))
    ray.wait([actors[3].__ray_terminate__.remote()])
    ray.wait([task.remote("broken task")])

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False)
    stop = lambda _, result: result["step"] == 8
    assert tune_with(trial, "name", ["done", "raising", "stopped"], stop).num_errors == 1
    for reuse, rates in ((False, [0.5, 0.25]), (True, [2, 4])):
        tune_with(bare_trial, "lr", rates, reuse_actors=reuse, max_concurrent_trials=1)
    work_in_actors()
"""
STATUSES = {
    "done": "finished",
    "raising": "failed",
    "stopped": "finished",
    "actor": "finished",
    "broken actor": "failed",
    "killed actor": "killed",
    "exiting actor": "finished",
    "broken task": "failed",
}


def test_trials_tasks_and_actors(tmp_path: Path, database: Path, agents: Agents) -> None:
    given = {"FOLDER": str(tmp_path), "DATABASE": f"sqlite:///{database}"}
    code = "".join(f"{key} = {value!r}\n" for key, value in given.items()) + SCRIPT
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        variables = {**ray_in(folder), **TO_A_FILE}  # a file has what bare trials log
        done = run_script(tmp_path, code, variables=variables, timeout=350)
    assert done.returncode == 0, done.stderr
    agents.wait_until_gone()
    stored = MLflowSubject(tmp_path)
    assert {run_id: stored.status(run_id) for run_id in STATUSES} == STATUSES
    for run_id in STATUSES:
        points = [(one.step, one.value) for one in stored.points(run_id)["loss"]]
        if (logs := tmp_path / "logs" / run_id).exists():
            assert points == [(one.step, one.value) for one in event_files.points(logs)["loss"]], run_id
            assert stored.params(run_id) == {"name": run_id}  # its own, and no command line of Ray's
            content = b"".join(stored.files(run_id).values())
            assert b'"entry_point": "' + str(tmp_path / "train.py").encode() in content
        else:
            assert points == [(0, 0.0), (1, 0.5), (2, 1.0)], run_id
    # Each trial has its own configuration, also in a worker that Ray uses again.
    bare = [(run.params, run.values) for run in recorded(tmp_path / "state")]
    expected = [({"lr": rate}, {"loss": [rate * 2]}) for rate in (0.25, 0.5, 2, 4)]
    assert sorted(bare, key=str) == sorted(expected, key=str)
