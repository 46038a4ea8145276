"""A run in a worker of Ray ends as its tasks did, however Ray ends the worker."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import event_files
from tests.support.agents import Agents
from tests.support.mlflow_subject import MLflowSubject
from tests.support.scripts import run_script
from tests.support.trackers import TRACKERS, backends, subjects_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.version_info >= (3, 14), reason="there is no Ray for it"),
]

TRIALS = """
import os
import ray
from ray import tune
import tracelet_otel

def train(config):
    from torch.utils.tensorboard import SummaryWriter

    tracelet_otel.configure(backends={backends!r}, run_id=config["name"], shutdown_timeout=60)
    with SummaryWriter(config["folder"] + "/" + config["name"]) as writer:
        for step in range(1000 if config["name"] == "stopped" else 6):
            writer.add_scalar("loss", 0.5**step, step)
            if step in (3, 5, 8):  # Ray kills a worker 0.2 s after its trial: too soon for a busy machine
                writer.flush()
                tracelet_otel.flush(60)
            if step == 3 and config["name"] == "raising":
                raise ValueError
            tune.report({{"step": step}})

if __name__ == "__main__":
    ray.init(num_cpus=3, include_dashboard=False)
    names = tune.grid_search(["done", "raising", "stopped"])
    tuner = tune.Tuner(
        train,
        param_space={{"folder": os.path.abspath("logs"), "name": names}},
        run_config=tune.RunConfig(
            name="trials",
            storage_path=os.path.abspath("results"),
            stop=lambda _, result: result["step"] == 8,
            verbose=0,
        ),
    )
    assert tuner.fit().num_errors == 1
"""

WORKERS = """
import asyncio, threading
import ray
import tracelet_otel

def log(name):
    tracelet_otel.configure(backends={backends!r}, run_id=name, shutdown_timeout=60)
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

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False)
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
"""


def variables(folder: str) -> dict[str, str]:
    """Has Ray write nothing outside, and nothing of ours delivered before ``configure()``."""
    return {"HOME": folder, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


def test_trials(tmp_path: Path, database: Path, agents: Agents) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with subjects_in(tmp_path, database) as subjects, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        code = TRIALS.format(backends=backends(tmp_path))
        done = run_script(work, code, variables=variables(folder), timeout=300)
        assert done.returncode == 0, done.stderr
        agents.wait_until_gone()
        for run_id, status in {"done": "finished", "raising": "failed", "stopped": "finished"}.items():
            written = [
                (point.step, point.value) for point in event_files.points(work / "logs" / run_id)["loss"]
            ]
            for name in TRACKERS:
                stored = subjects[name].points(run_id)["loss"]
                assert [(one.step, one.value) for one in stored] == written, (run_id, name)
                assert subjects[name].status(run_id) == status, (run_id, name)
            content = b"".join(subjects["mlflow"].files(run_id).values())
            assert b'"entry_point": "' + str(work / "train.py").encode() in content


def test_tasks_and_actors(tmp_path: Path, database: Path, agents: Agents) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        used = {"mlflow": {"tracking_uri": f"sqlite:///{database}"}}
        code = WORKERS.format(backends=used)
        done = run_script(tmp_path, code, variables=variables(folder), timeout=300)
    assert done.returncode == 0, done.stderr
    agents.wait_until_gone()
    stored = MLflowSubject(tmp_path)
    expected = {
        "actor": "finished",
        "broken actor": "failed",
        "killed actor": "killed",
        "exiting actor": "finished",
        "broken task": "failed",
    }
    assert {run_id: stored.status(run_id) for run_id in expected} == expected
    for run_id in expected:
        points = stored.points(run_id)["loss"]
        assert [(one.step, one.value) for one in points] == [(0, 0.0), (1, 0.5), (2, 1.0)], run_id
