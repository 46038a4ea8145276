"""Launchers and workers open no run of their own; the ranks of one launch share one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import mlflow_content as mlflow
from tests.support.scripts import clean_environment, run_script, script_command, write_script

RANK_SCRIPT = """
import os
from torch.utils.tensorboard import SummaryWriter
rank = os.environ["RANK"]
with SummaryWriter(f"logs/{rank}") as writer:
    for step in range(100):
        writer.add_scalar("loss", step + int(rank) * 1000, step)
"""


@pytest.mark.slow
def test_torchrun_with_two_ranks_is_one_run(tmp_path: Path, database: Path) -> None:
    script = write_script(tmp_path, RANK_SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = script_command(script)
    done = subprocess.run(
        [*command[:2], *torchrun, *command[2:]],
        cwd=tmp_path,
        env=clean_environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = mlflow.runs(database)
    stored = mlflow.points(database)
    assert [point.value for point in stored["loss"]] == list(range(100))
    assert [point.value for point in stored["loss/rank_1"]] == list(range(1000, 1100))
    assert run.status in ("FINISHED", "RUNNING")  # rank 1 may still write when rank 0 ends the run


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataloader_workers_open_no_run(tmp_path: Path, database: Path, method: str) -> None:
    code = f"""
    import torch
    from torch.utils.data import DataLoader
    from torch.utils.tensorboard import SummaryWriter
    if __name__ == "__main__":
        with SummaryWriter("logs") as writer:
            data = torch.arange(40.0)
            loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context={method!r})
            for step, batch in enumerate(loader):
                writer.add_scalar("mean", batch.mean(), step)
    """
    done = run_script(tmp_path, code)
    assert done.returncode == 0, done.stderr
    (run,) = mlflow.runs(database)
    assert run.status == "FINISHED"
    assert sorted(point.value for point in mlflow.points(database)["mean"]) == [
        1.5 + 4 * n for n in range(10)
    ]
    assert done.stderr.count("tracelet-otel: run ") == 1


def test_a_launcher_that_logs_nothing_opens_no_run(tmp_path: Path) -> None:
    done = run_script(
        tmp_path, f"import subprocess; subprocess.run([{sys.executable!r}, '-c', 'pass'], check=True)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "mlflow.db").exists()
