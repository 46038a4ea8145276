"""Runs the processes of the benchmarks, and makes the empty MLflow database that they start with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def run(command: Sequence[str], folder: str | Path, variables: Mapping[str, str] | None, name: str) -> str:
    """Runs a process in a folder, and returns its standard output and error output, in this order.

    A process that fails ends the benchmark with the exit code and both outputs.

    Args:
        command: the arguments after the Python that runs this.
        folder: the process's current folder.
        variables: all its environment variables; those of this process if None.
        name: what a failure is reported as.
    """
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{name}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def empty_mlflow(folder: Path) -> Path:
    """A new, empty database of MLflow in a folder. Making one takes seconds, copying it does not."""
    code = "from mlflow import MlflowClient; MlflowClient('sqlite:///empty.db').search_experiments()"
    run(["-c", code], folder, None, "empty database")
    return folder / "empty.db"
