"""Whether backends can be reached: each is tried in a child process, for a bounded time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from tracelet_otel.backends.names import SPOOLS
from tracelet_otel.secrets.redaction import redacted_text

_OK: Final = ("ok", "new")
_TODO: Final[Mapping[tuple[str, str], str]] = {
    ("mlflow", "unreachable"): "start the server, or set MLFLOW_TRACKING_URI to one that runs",
    ("mlflow", "refused"): "set MLFLOW_TRACKING_URI to a server or a database that works",
    ("wandb", "unreachable"): "check the network and WANDB_BASE_URL, or set WANDB_MODE=offline",
    ("wandb", "refused"): "run `wandb login` or set WANDB_API_KEY, or set WANDB_MODE=offline",
    ("aim", "unreachable"): "start the server with `aim server`, or use a repository on disk",
    ("aim", "refused"): "use a folder that can be written to, or run `aim init` in one",
    ("clearml", "unreachable"): "check the network and CLEARML_API_HOST",
    ("clearml", "refused"): "run `clearml-init`, or set CLEARML_API_HOST and its credentials",
    ("file", "refused"): "set TRACELET_SPOOL_DIR to a folder that can be written to",
    ("otlp", "unreachable"): "start the Collector, or set OTEL_EXPORTER_OTLP_ENDPOINT and _PROTOCOL",
    ("otlp", "refused"): "set OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL and _HEADERS as the receiver has them",
}
_TODO_OF_STATE: Final[Mapping[str, str]] = {
    "unreachable": "start it, or check its address",
    "refused": "see its own message",
    "unusable": "install it, or choose another backend",
}
_SCRATCH: Final = ("TMPDIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
"""Variables of folders that clients write to when they start."""


def check(chosen: Mapping[str, Mapping[str, Any]], state: Path, timeout: float) -> list[dict[str, Any]]:
    """Tries backends, all at the same time.

    Args:
        chosen: options by backend.
        state: folder of spools and companion files.
        timeout: seconds that each has, its client's import among them.

    Returns:
        For each ``backend``, ``state``, ``usable``, ``detail``, ``todo`` and ``seconds``.
    """
    if not chosen:
        return []
    with ThreadPoolExecutor(len(chosen)) as pool:
        waiting = [pool.submit(_check, name, options, state, timeout) for name, options in chosen.items()]
        return [future.result() for future in waiting]


def _check(name: str, options: Mapping[str, Any], state: Path, timeout: float) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tracelet-doctor-", ignore_cleanup_errors=True) as folder:
        answer_path = Path(folder, "answer.json")
        given: dict[str, Any] = {
            "name": name,
            "options": options,
            "folder": str(Path.cwd()),
            "spools": str(state / SPOOLS),
            "answer": str(answer_path),
        }
        answer = _answer(given, folder, answer_path, timeout)
    detail = redacted_text(answer["detail"])
    found = {"backend": name, "usable": answer["state"] in _OK, "state": answer["state"], "detail": detail}
    hints = _TODO.get((name, answer["state"]), _TODO_OF_STATE.get(answer["state"], ""))
    return {**found, "todo": hints, "seconds": round(time.monotonic() - began, 1)}


def _answer(given: Mapping[str, Any], folder: str, answer_path: Path, timeout: float) -> dict[str, str]:
    output = Path(folder, "output.txt")
    environment = {**os.environ, **dict.fromkeys(_SCRATCH, folder), "PYTHONWARNINGS": "ignore"}
    with output.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "tracelet_otel.cli.probe", json.dumps(given, default=str)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            return {"state": "unreachable", "detail": f"no answer within {timeout:g} s"}
        finally:
            _end(child)
    if answer_path.exists():
        return json.loads(answer_path.read_bytes())
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    detail = f"its client ended the process (exit code {child.returncode}){': ' + lines[-1] if lines else ''}"
    return {"state": "refused", "detail": detail}


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends the child and everything that its client started."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    except OSError:  # all of them have ended
        pass
    child.wait()
