"""Processes beside the one that trains: each point is there once, in one run, whoever logged it."""

from __future__ import annotations

import pytest

from tests.faults.checker import check
from tests.faults.evidence import Place
from tests.faults.trial import Trial

LOG = """
import multiprocessing, os, signal, subprocess, sys, threading, time
from concurrent.futures import ProcessPoolExecutor
import tracelet_otel
import journal

def work(name):
    journal.log(f"work{name}", range(50))

if __name__ == "__main__":
    {before}
    {code}
    journal.log("end", range(10))
"""
LOGS_FIRST = 'journal.log("loss", range(100))'

ROWS = {
    "a forked child": (
        LOGS_FIRST,
        """
    child = os.fork()
    if child == 0:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        work("0")
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0""",
    ),
    "a forked child that gets SIGTERM": (
        LOGS_FIRST,
        """
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(1)
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM""",
    ),
    "fork with and without exec while threads log": (
        LOGS_FIRST,
        """
    threads = [threading.Thread(target=journal.log, args=(f"thread{n}", range(400)), kwargs={"pause": 0.002})
               for n in range(4)]
    for thread in threads:
        thread.start()
    for n in range(15):
        child = os.fork()
        if child == 0:
            work(n)
            os._exit(0)
        subprocess.run(["true"], check=True)
        assert os.waitpid(child, 0)[1] == 0
    for thread in threads:
        thread.join()""",
    ),
    "a spawned child": (
        LOGS_FIRST,
        """
    child = multiprocessing.get_context("spawn").Process(target=work, args=("0",))
    child.start()
    child.join()
    assert child.exitcode == 0""",
    ),
    "a subprocess": (
        LOGS_FIRST,
        """
    code = "import journal; journal.log('child', range(50))"
    subprocess.run([sys.executable, "-c", code], check=True)""",
    ),
    "a pool of forked workers": (
        LOGS_FIRST,
        """
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(work, range(4))""",
    ),
    "a pool of spawned workers": (
        LOGS_FIRST,
        """
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(work, range(4))""",
    ),
    "an executor of forkserver workers": (
        LOGS_FIRST,
        """
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        list(pool.map(work, range(4)))""",
    ),
    "a forked child of a mere launcher": (
        "",
        """
    child = multiprocessing.get_context("fork").Process(target=work, args=("0",))
    child.start()
    child.join()
    assert child.exitcode == 0""",
    ),
    "a forkserver child of a mere launcher": (
        "",
        """
    child = multiprocessing.get_context("forkserver").Process(target=work, args=("0",))
    child.start()
    child.join()
    assert child.exitcode == 0""",
    ),
}


@pytest.mark.parametrize(("before", "code"), ROWS.values(), ids=ROWS)
def test_beside(trial: Trial, places: dict[str, Place], before: str, code: str) -> None:
    trial.run(LOG.replace("{before}", before or "pass").replace("{code}", code.strip()))
    check(trial, places)


LOADER = """
import torch
from torch.utils.data import DataLoader
import journal
if __name__ == "__main__":
    data = torch.arange(40.0)
    loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context={method!r})
    for step, batch in enumerate(loader):
        journal.log("mean", [step])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_dataloader_workers(trial: Trial, places: dict[str, Place], method: str) -> None:
    trial.run(LOADER.format(method=method))
    check(trial, places)
    assert trial.err.count("tracelet-otel: run ") == 1


RANKS = """
import os, time
from pathlib import Path
import journal
journal.log("loss", range(50))
Path("rank" + os.environ["RANK"]).touch()
while not all(Path(f"rank{rank}").exists() for rank in range(2)):
    time.sleep(0.01)
journal.log("loss", range(50, 100))
"""


@pytest.mark.slow
def test_torchrun_with_two_ranks(trial: Trial, places: dict[str, Place]) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    trial.run(RANKS, module=torchrun)
    check(trial, places)
