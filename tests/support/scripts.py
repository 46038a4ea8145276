"""Runs training scripts the way users do, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

BY_DEFAULT = {"TRACELET_ISOLATION": "process", "TRACELET_SHUTDOWN_TIMEOUT": "100"}
"""For tests of what a user gets who sets nothing; with the patience that a busy machine needs."""
_INSTRUMENT = str(Path(sys.executable).parent / "opentelemetry-instrument")


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without anything that steers us or a tracker."""
    steering = (
        "TRACELET_",
        "OTEL_",
        "MLFLOW_",
        "WANDB_",
        "AIM_",
        "CLEARML_",
        "TRAINS_",
        "SLURM_",
        "RANK",
        "WORLD_SIZE",
        "TORCHELASTIC_",
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(steering)}
    environment.pop("PYTHONPATH", None)
    # A test process must not inherit pytest's marks, or MLflow thinks that it is tested itself.
    environment.pop("PYTEST_CURRENT_TEST", None)
    ours = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
        # One process fewer a test; tests/agent and some others are about the default.
        "TRACELET_ISOLATION": "thread",
    }
    return {**environment, **ours, **extra}


def script_command(path: Path, *arguments: str, zero_code: bool = True) -> list[str]:
    """The command that runs a script, with or without ``opentelemetry-instrument``."""
    python = [sys.executable, str(path), *arguments]
    return [_INSTRUMENT, *python] if zero_code else python


def write_script(folder: Path, code: str, name: str = "train.py") -> Path:
    """A script with this code, which may be indented."""
    path = folder / name
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


def run_script(
    folder: Path,
    code: str,
    *arguments: str,
    zero_code: bool = True,
    variables: Mapping[str, str] | None = None,
    timeout: float = 100,
    name: str = "train.py",
) -> subprocess.CompletedProcess[str]:
    """Runs a script to its end, in ``folder``."""
    return subprocess.run(
        script_command(write_script(folder, code, name), *arguments, zero_code=zero_code),
        cwd=folder,
        env=clean_environment(**variables or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
