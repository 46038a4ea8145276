"""The examples for torchrun and Slurm, run as they say: several ranks, one run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import mlflow_content as mlflow
from tests.support.scripts import check_failures, clean_environment
from tests.test_zero_code import otlp_server
from tracelet_otel.otlp.decoding import decode_series

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STEPS = 50
SRUN = """#!/bin/bash
# As much of srun as the script needs: its tasks, each with its numbers, and the first exit code above 0.
shift
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || exit; done
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("torchrun", "slurm"):
        shutil.copytree(EXAMPLES / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.slow
def test_torchrun_with_four_ranks_is_one_run(folder: Path, empty_database: Path, path: str) -> None:
    shutil.copy(empty_database, folder / "torchrun" / "mlflow.db")
    command = (folder / "torchrun" / "README.md").read_text(encoding="utf-8").split("```")[1]
    assert command.splitlines()[1].startswith("opentelemetry-instrument torchrun --nproc-per-node 4 ")
    done = subprocess.run(
        command.removeprefix("sh\n"),
        shell=True,
        cwd=folder / "torchrun",
        env=clean_environment(
            PATH=path,
            OTEL_METRICS_EXPORTER="mlflow",
            XDG_STATE_HOME=str(folder),
        ),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_failures(done.stderr)
    database = folder / "torchrun" / "mlflow.db"
    assert len(mlflow.runs(database)) == 1
    steps = {
        tag: [point.step for point in points]
        for tag, points in mlflow.points(database).items()
        if not tag.startswith("system/")
    }
    tags = ["loss/mean", "loss/rank", *(f"loss/rank/rank_{rank}" for rank in (1, 2, 3))]
    assert steps == {tag: list(range(STEPS)) for tag in tags}


@pytest.mark.slow
def test_slurms_tasks_are_one_run(folder: Path, path: str) -> None:
    tools = {"srun": SRUN, "scontrol": "#!/bin/bash\necho 127.0.0.1\n"}
    for name, content in tools.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    with otlp_server() as (endpoint, received):
        done = subprocess.run(
            ["bash", "train.sbatch"],
            cwd=folder / "slurm",
            env=clean_environment(
                PATH=f"{folder}{os.pathsep}{path}",
                HOME=str(folder),
                OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
                SLURM_JOB_ID="42",
                SLURM_JOB_NAME="digits",
                SLURM_CLUSTER_NAME="here",
                SLURM_JOB_NODELIST="node",
                SLURMD_NODENAME="node",
                SLURM_NTASKS="2",
                SLURM_SUBMIT_DIR=str(folder / "slurm"),
            ),
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    check_failures(done.stderr)
    found: dict[tuple[str, int], list[int]] = {}
    runs: set[str] = set()
    for request in received:
        for series in decode_series(request):
            runs.add(series.run_id)
            steps = found.setdefault((series.tag, series.rank or 0), [])
            steps += [point.step for point in series.points]
    assert len(runs) == 1
    keys = [("loss/mean", 0), ("loss/rank", 0), ("loss/rank", 1)]
    assert found == {key: list(range(STEPS)) for key in keys}
