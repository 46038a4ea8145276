"""Each way to start the parts of a training, with each way in which a part writes, into every tracker."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import event_files
from tests.support.agents import Agents
from tests.support.scripts import ray_in, run_script, write_script
from tests.support.subject import Subject
from tests.support.trackers import TRACKERS, backends, run_ids, scalars, subjects_in
from tracelet_otel.recording.writer_names import series_tag

PART = """
import os, sys, warnings
from torch.utils.tensorboard import SummaryWriter
import tracelet_otel

warnings.filterwarnings("ignore")

def write(folder, tag, number, steps=3):
    with SummaryWriter(f"{WORK}/{folder}") as writer:
        for step in range(steps):
            writer.add_scalar(tag, number + step / 8, 10 * number + step)

def part(number):
    write("one", "val/acc", number)  # a folder and a tag that all parts have
    write(f"one/fold{number}", "val/acc", number)
    write(f"elsewhere/fold{number}", "val/acc", number)
    with SummaryWriter(f"{WORK}/trials/{number}") as writer:
        writer.add_hparams({"lr": number}, {"best": number / 8})

def fold(number):
    part(number)
    from fitting import fit

    fit(f"{WORK}/lightning/fold{number}")

def configure():
    tracelet_otel.configure(backends=BACKENDS, shutdown_timeout=60)
"""

FITTING = """
import lightning, torch
from torch.utils.data import DataLoader, TensorDataset

class Model(lightning.LightningModule):
    def __init__(self, part, rate=0.5):
        super().__init__()
        self.save_hyperparameters("rate")
        self.part = part
        self.layer = torch.nn.Linear(4, 1)

    def on_train_start(self):
        if self.part is not None:
            self.part(self.global_rank)

    def training_step(self, batch, index):
        self.log("val/acc", index / 8)
        self.log("ranks", float(self.global_rank), sync_dist=True)
        return self.layer(batch[0]).sum()

    def test_step(self, batch, index):
        self.log("test", index / 4)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)

def fit(folder, part=None, is_tested=False, **options):
    logger = lightning.pytorch.loggers.TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
    trainer = lightning.Trainer(
        max_epochs=1, log_every_n_steps=1, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=part is not None, enable_checkpointing=False, logger=logger, **options,
    )
    data = DataLoader(TensorDataset(torch.rand(12, 4)), batch_size=2)
    trainer.fit(model := Model(part), data)
    if is_tested:
        model.part = None
        trainer.test(model, data, verbose=False)
"""
"""A module of its own, so that what does not fit does not import Lightning."""

THREADS = """
import threading
configure()
parts = [threading.Thread(target=fold, args=(number,)) for number in range(2)]
for one in parts: one.start()
for one in parts: one.join()
"""

PROCESSES = """
import multiprocessing
configure()
if __name__ == "__main__":
    write("one", "started", 0, 1)
    parts = [multiprocessing.get_context(METHOD).Process(target=fold, args=(number,)) for number in range(2)]
    for one in parts: one.start()
    for one in parts: one.join()
    assert [one.exitcode for one in parts] == [0, 0]
"""

POOL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
configure()
if __name__ == "__main__":
    write("one", "started", 0, 1)
    with ProcessPoolExecutor(2, multiprocessing.get_context(METHOD)) as pool:
        list(pool.map(fold, range(2)))
"""

JOBLIB = """
import joblib

def job(number):
    configure()  # what is pickled does not bring its module along
    fold(number)

configure()
write("one", "started", 0, 1)
joblib.Parallel(n_jobs=2)(joblib.delayed(job)(number) for number in range(2))
"""

SUBPROCESSES = """
import subprocess
configure()
if sys.argv[1:]:
    fold(int(sys.argv[1]))
else:
    write("one", "started", 0, 1)
    parts = [subprocess.Popen([sys.executable, __file__, str(number)]) for number in range(2)]
    assert [one.wait() for one in parts] == [0, 0]
"""

STRATEGY = """
configure()
if __name__ == "__main__":
    from fitting import fit

    write("one", "started", 0, 1)
    fit(f"{WORK}/lightning", part, is_tested=IS_TESTED, strategy=METHOD, devices=2)
"""

TORCHRUN = (
    """
import subprocess
if "RANK" not in os.environ:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, __file__], check=True)
    sys.exit()
"""
    + STRATEGY
)

RAY = """
import ray
from ray import tune

def train(config):
    configure()
    fold(config["number"])
    tracelet_otel.flush(60)  # Ray soon kills a worker whose trial has ended
    tune.report({"done": 1})

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False)
    tuner = tune.Tuner(
        train, param_space={"number": tune.grid_search([0, 1])},
        run_config=tune.RunConfig(storage_path=WORK + "/ray", verbose=0),
    )
    assert tuner.fit().num_errors == 0
"""

HYDRA = """
import hydra
configure()

@hydra.main(version_base=None, config_path=None)
def job(config):
    fold(config.number)

job()
"""


class Shape(NamedTuple):
    script: str
    method: str = ""
    runs: int = 3
    """Each trial of add_hparams has a child run, but for that of a run's own process."""
    words: tuple[str, ...] = ()


SHAPES = {
    "threads": Shape(THREADS),
    "fork": Shape(PROCESSES, "fork"),
    "spawn": Shape(PROCESSES, "spawn"),
    "forkserver": Shape(PROCESSES, "forkserver"),
    "pool-fork": Shape(POOL, "fork"),
    "pool-spawn": Shape(POOL, "spawn"),
    "joblib": Shape(JOBLIB),
    "subprocess": Shape(SUBPROCESSES),
    "torchrun": Shape(TORCHRUN, "ddp", runs=2),
    "ddp": Shape(STRATEGY, "ddp", runs=2),
    **{name: Shape(STRATEGY, name) for name in ("ddp_spawn", "ddp_fork", "ddp_notebook")},
    "ray": Shape(RAY, runs=2),
    "hydra": Shape(HYDRA, runs=2, words=("-m", "+number=0,1")),
}

Series = dict[tuple[str, str], Counter[tuple[int, float]]]
"""Steps and values by folder and tag."""
TRIALS = [Counter({(0, number / 8): 1}) for number in range(2)]


def written(work: Path) -> Series:
    """What the event files have."""
    found: Series = {}
    for folder in {path.parent for path in work.rglob("*tfevents*")}:
        home = folder.parent if folder.parent.parent == work / "trials" else folder  # a trial's is below
        for tag, points in event_files.points(folder).items():
            found[str(home), tag] = Counter((point.step, point.value) for point in points)
    return found


def epochs_once(series: Series) -> Series:
    """With each step of ``epoch`` once: ddp_spawn's fit and test both begin at 0, which AIM keeps once."""
    return {key: Counter(set(found)) if key[1] == "epoch" else found for key, found in series.items()}


def stored(subject: Subject, runs: set[str], known: Iterable[tuple[str, str]]) -> Series:
    """What a tracker has, by the folders and tags that its names stand for."""
    found: Series = {}
    for run_id in runs:
        first = subject.tags(run_id)["tensorboard.log_dir"]
        names = {series_tag(first, *key): key for key in known}
        params = subject.params(run_id)
        for name, points in scalars(subject, run_id).items():
            folder, original = names[name.partition("/rank_")[0]]
            assert "/rank_" not in name or "/lightning" not in folder  # Lightning logs on rank 0 alone
            if original == "best":  # the first trial is in the run, too, and in its child run
                assert params["lr"] == Path(folder).name
                found[folder, original] = Counter(points)
            else:
                found.setdefault((folder, original), Counter()).update(points)
    return found


def rates(subject: Subject, runs: set[str]) -> list[str]:
    """The model's hyperparameter, wherever it was recorded."""
    return [value for run in runs for name, value in subject.params(run).items() if name.endswith("rate")]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SHAPES)
def test_every_value_is_in_every_tracker_under_its_writer(
    tmp_path: Path, database: Path, agents: Agents, name: str
) -> None:
    if name == "ray" and sys.version_info >= (3, 14):
        pytest.skip("there is no Ray for it")
    shape = SHAPES[name]
    work = tmp_path / "work"
    work.mkdir()
    with subjects_in(tmp_path, database) as subjects, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        is_tested = shape.method in ("ddp", "ddp_spawn")
        given = {
            "WORK": str(work),
            "BACKENDS": backends(tmp_path),
            "METHOD": shape.method,
            "IS_TESTED": is_tested,
        }
        code = "".join(f"{key} = {value!r}\n" for key, value in given.items()) + PART + shape.script
        write_script(work, FITTING, "fitting.py")
        done = run_script(
            work, code, *shape.words, zero_code=is_tested, variables=ray_in(folder), timeout=250
        )
        assert done.returncode == 0, done.stderr
        agents.wait_until_gone()
        in_files = written(work)
        assert [in_files[f"{work}/trials/{number}", "best"] for number in range(2)] == TRIALS
        runs = run_ids(tmp_path)
        assert len(runs) == shape.runs, done.stderr
        files = [(run_id, path) for run_id in runs for path in subjects["mlflow"].files(run_id)]
        environments = Counter(run_id for run_id, path in files if "environment.json" in path)
        assert set(environments.values()) == {1}
        if shape.method.startswith("ddp"):
            assert len([path for _, path in files if "model_summary" in path]) == 1
            assert {value for _, value in in_files[f"{work}/lightning", "ranks"]} == {0.5}
            assert ((f"{work}/lightning", "test") in in_files) == is_tested
        same = epochs_once if shape.method == "ddp_spawn" else dict
        for tracker in TRACKERS:
            assert same(stored(subjects[tracker], runs, in_files)) == same(in_files), tracker
            if shape.method.startswith("ddp"):
                assert rates(subjects[tracker], runs) == ["0.5"], tracker  # of rank 0 alone
            assert {subjects[tracker].status(run_id) for run_id in runs} == {"finished"}, tracker
