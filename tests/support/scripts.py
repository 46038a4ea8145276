"""Runs training scripts the way users do, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

OURS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",  # threads that wait for each other take the time of other tests
    "PYTHONUNBUFFERED": "1",
    "TRACELET_SHUTDOWN_TIMEOUT": "100",  # the patience that a busy machine needs
}
"""In the environment of every test. The isolation is the default, unless a test is marked ``in_thread``."""
FAILED = "failed; training goes on"
"""In what the guard logs, see tests/foundation/test_guard.py."""
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
    isolation = {key: value for key, value in os.environ.items() if key == "TRACELET_ISOLATION"}
    return {**environment, **OURS, **isolation, **extra}


def ray_in(folder: str) -> dict[str, str]:
    """In the environment of a script that uses Ray: it writes below a folder alone, and Tune logs nothing."""
    return {
        "HOME": folder,
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }


def check_failures(said: str) -> None:
    """Fails if a process said that something of ours failed: tests in this process see that raised."""
    failures = [line for line in said.splitlines() if FAILED in line]
    assert not failures, "\n".join(failures)


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
    """Runs a script to its end, in ``folder``; see :func:`run_command`."""
    command = script_command(write_script(folder, code, name), *arguments, zero_code=zero_code)
    return run_command(command, folder, variables, timeout)


def run_command(
    command: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None, timeout: float = 100
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end. Fails if it says that anything of ours failed, whatever its exit code."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=clean_environment(**variables or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = b"\n".join(filter(None, (error.stdout, error.stderr))).decode(errors="replace")
        raise AssertionError(f"after {timeout} s it had said:\n{said}") from None
    check_failures(done.stderr)
    return done
