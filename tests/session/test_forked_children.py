"""Forked children that log join the run of their parent, and touch nothing else of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.session.test_folders_across_processes import written
from tests.support.scripts import run_script
from tests.support.trackers import TRACKERS, backends, subjects_in

SHAPES = """
import multiprocessing, os, sys, threading
from concurrent.futures import ProcessPoolExecutor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
import tracelet_otel

tracelet_otel.configure(backends={backends!r}, run_id="forks", isolation={isolation!r})
fork = multiprocessing.get_context("fork")

def fold(name):
    with SummaryWriter(f"runs/{{name}}") as writer:
        for step in range(3):
            writer.add_scalar("loss", len(name) + step / 8, step)

def process(name):
    child = fork.Process(target=fold, args=(name,))
    child.start()
    child.join()
    assert child.exitcode == 0

def executor(name):
    with ProcessPoolExecutor(2, fork) as workers:
        list(workers.map(fold, [f"{{name}}/{{number}}" for number in range(7)]))

def pool(name):
    with fork.Pool(2) as workers:  # which ends its workers by SIGTERM
        workers.map(fold, [f"{{name}}/{{number}}" for number in range(7)])

def bare(name):
    child = os.fork()
    if child == 0:
        fold(name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def fork_of_a_fork(name):
    child = os.fork()
    if child == 0:
        bare(name + "/second")
        fold(name + "/first")
        bare(name + "/third")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def in_a_thread(name):
    thread = threading.Thread(target=bare, args=(name,))
    thread.start()
    thread.join()

def falls_through(name):
    child = os.fork()
    if child == 0:
        fold(name)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0

class Data:
    def __init__(self, name):
        self.name = name
    def __len__(self):
        return 4
    def __getitem__(self, index):
        with SummaryWriter(f"runs/{{self.name}}/{{index}}") as writer:
            writer.add_scalar("index", index, index)
        return index

def loader(name):
    assert len(list(DataLoader(Data(name), num_workers=2, multiprocessing_context=fork))) == 4

if __name__ == "__main__":
    with SummaryWriter("runs") as writer:
        writer.add_scalar("loss", 100.0, 0)
        for shape in {shapes}:
            shape(shape.__name__)
        writer.add_scalar("loss", 101.0, 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_what_they_log_is_in_every_tracker(tmp_path: Path, database: Path, isolation: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with subjects_in(tmp_path, database) as subjects:
        code = SHAPES.format(backends=backends(tmp_path), isolation=isolation)
        done = run_script(work, code, zero_code=False, timeout=170)
        assert done.returncode == 0, done.stderr
        expected = written(work, "runs")
        assert len(expected) == 1 + 1 + 7 + 7 + 1 + 3 + 1 + 1 + 4
        for name in TRACKERS:
            stored = {
                tag: sorted((one.step, one.value) for one in points)
                for tag, points in subjects[name].points("forks").items()
                if not tag.startswith("system/")
            }
            assert stored == expected, name
            assert subjects[name].status("forks") == "finished", name
