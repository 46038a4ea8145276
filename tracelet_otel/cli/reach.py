"""Whether backends can be reached: each is tried with its real client in a process of its own.

That process is this module, in a temporary folder and for a bounded time, so that whatever a client writes,
patches or leaves hanging goes away with it. What does not exist yet is not created.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

from tracelet_otel.backends.deliveries import make_file, make_tracker
from tracelet_otel.backends.names import FILE, SPOOLS, TRACKER_GROUP
from tracelet_otel.backends.standard_exporters import StandardExporters
from tracelet_otel.delivery.delivery import BOTH
from tracelet_otel.delivery.otlp.forward import NAMES, Forward
from tracelet_otel.foundation.entry_points import find
from tracelet_otel.foundation.errors import DeliveryError, TransientError
from tracelet_otel.secrets.redaction import redacted_text
from tracelet_otel.settings import ConfigurationError
from tracelet_otel.tracker.interface import LocalStorage, Tracker

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
TODO_OF_STATE: Final[Mapping[str, str]] = {
    "unreachable": "start it, or check its address",
    "refused": "see its own message",
    "unusable": "install it, or choose another backend",
}
_SCRATCH: Final = ("TMPDIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
"""Variables of folders that clients write to when they start."""


class Reachability(TypedDict):
    """Whether a backend can be used."""

    state: Literal["ok", "new", "unreachable", "refused", "unusable"]
    """``new``: it does not exist yet and will be created. ``unreachable``: it may work later. ``refused``: it
    exists and does not work. ``unusable``: it is not installed or not set up."""
    detail: str


def check(chosen: Mapping[str, Mapping[str, Any]], state: Path, timeout: float) -> list[dict[str, Any]]:
    """Tries backends, each with its options, all at the same time.

    Each has ``timeout`` seconds, its client's import among them. Of each the result has ``backend``,
    ``state``, ``usable``, ``detail``, ``todo`` and ``seconds``.
    """
    with ThreadPoolExecutor(len(chosen) or 1) as pool:
        return list(pool.map(partial(_check, state=state, timeout=timeout), chosen, chosen.values()))


def _check(name: str, options: Mapping[str, Any], state: Path, timeout: float) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tracelet-doctor-", ignore_cleanup_errors=True) as scratch:
        given = [name, options, str(Path.cwd()), str(state / SPOOLS), str(Path(scratch, "answer.json"))]
        found = _answer(given, scratch, timeout)
    return {
        "backend": name,
        "usable": found["state"] in ("ok", "new"),
        "state": found["state"],
        "detail": redacted_text(found["detail"]),
        "todo": _TODO.get((name, found["state"]), TODO_OF_STATE.get(found["state"], "")),
        "seconds": round(time.monotonic() - began, 1),
    }


def _answer(given: Sequence[Any], scratch: str, timeout: float) -> Reachability:
    output, answer = Path(scratch, "output.txt"), Path(given[-1])
    with output.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "tracelet_otel.cli.reach", json.dumps(given, default=str)],
            cwd=scratch,
            env={**os.environ, **dict.fromkeys(_SCRATCH, scratch), "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            return Reachability(state="unreachable", detail=f"no answer within {timeout:g} s")
        finally:  # and everything that its client started
            with contextlib.suppress(OSError):  # all of them have ended
                _ = os.killpg(child.pid, signal.SIGKILL) if hasattr(os, "killpg") else child.kill()
            child.wait()
    if answer.exists():
        return json.loads(answer.read_bytes())
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    detail = f"its client ended the process (exit code {child.returncode}){': ' + lines[-1] if lines else ''}"
    return Reachability(state="refused", detail=detail)


def _try(name: str, options: Mapping[str, Any], folder: Path, spools: Path) -> Reachability:
    """Tries a backend in this process. Its options and its defaults may have names relative to ``folder``.

    What its client writes into the current folder stays in the current one.
    """
    scratch = Path.cwd()
    os.chdir(folder)
    if name == FILE:
        return _writable(make_file(spools, options, 1).folder)
    if name in NAMES:
        _connect(Forward(name, options))
        return Reachability(state="ok", detail="took an empty request")
    entry_point = find(TRACKER_GROUP, name)
    if entry_point is None:
        exporters = StandardExporters(name, options, BOTH)
        os.chdir(scratch)
        exporters.load()
        return Reachability(state="ok", detail="installed; it cannot be asked whether it works")
    tracker = make_tracker(name, entry_point, options)  # which remembers the current folder
    os.chdir(scratch)
    storage: LocalStorage | None = getattr(tracker, "local_storage", lambda: None)()
    if storage is not None:
        found = _writable(storage.path)
        if found["state"] == "refused" or (found["state"] == "new" and storage.made_by_connect):
            return found
    _connect(tracker)
    return Reachability(state="ok", detail="connected")


def _connect(client: Tracker | Forward) -> None:
    try:
        client.load()
        client.connect()
    finally:
        client.close()


def _writable(path: Path) -> Reachability:
    if path.exists():
        if os.access(path, os.W_OK):
            return Reachability(state="ok", detail=f"{path} can be written to")
        return Reachability(state="refused", detail=f"{path} cannot be written to")
    ancestor = next(item for item in path.parents if item.exists())
    if ancestor.is_dir() and os.access(ancestor, os.W_OK | os.X_OK):
        return Reachability(state="new", detail=f"{path} will be created")
    return Reachability(state="refused", detail=f"{path} cannot be created: {ancestor} cannot be written to")


def main() -> None:
    """Tries the backend that the argument names, and writes what is found to a file, both as JSON."""
    name, options, folder, spools, answer = json.loads(sys.argv[1])
    try:
        found = _try(name, options, Path(folder), Path(spools))
    except ConfigurationError as error:
        found = Reachability(state="unusable", detail=str(error))
    except TransientError as error:
        found = Reachability(state="unreachable", detail=str(error))
    except DeliveryError as error:
        found = Reachability(state="refused", detail=str(error))
    except Exception as error:  # a client's own
        found = Reachability(state="refused", detail=repr(error))
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
