"""Starts an agent's process, without waiting for what it imports."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tracelet_otel.agent.address import Address
from tracelet_otel.foundation.errors import TransientError

_SERVE: Final = """
import sys
sys.path[:] = [path for path in sys.path if path]
from tracelet_otel.agent.server import main
main()
"""
_MAIN: Final = f"""
import os, sys
os.fork() and os._exit(0)
if sys.platform == "darwin":  # whose libraries do not work in a forked process
    os.execv(sys.executable, [sys.executable, "-c", {_SERVE!r}])
{_SERVE}
"""
"""Forked once more, so that the agent is not a child of training: a script that waits for any of its children
would get ours. And without the current folder in ``sys.path``: a ``queue.py`` there would be imported."""
_MOST_LOG_BYTES: Final = 1024 * 1024


def launch(address: Address, folder: str, config: Mapping[str, Any]) -> None:
    """Starts an agent, which ends at once if it finds another one.

    Takes as long as the start of a process: it does not wait for the agent's imports.

    Args:
        address: of the agent.
        folder: the agent's current folder.
        config: for the agent, in JSON's types. It is not in the arguments, which every user can read.

    Raises:
        TransientError: the process cannot be started.
    """
    complete = {**config, "address": {"key": address.key, **_paths(address)}, "sys_path": _import_paths()}
    _shorten(address.log)
    try:
        # Only files of its own: a reader of training's output must not have to wait for the agent's end.
        with address.log.open("ab", buffering=0) as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _MAIN],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=folder if os.path.isdir(folder) else "/",  # noqa: PTH112 - a text
                start_new_session=True,  # Ctrl-C is for training; the agent delivers what training leaves
            )
    except (OSError, ValueError) as error:
        raise TransientError(f"the agent cannot be started: {error}") from error
    process.communicate(json.dumps(complete).encode())


def _paths(address: Address) -> dict[str, str]:
    return {"socket": str(address.socket), "lock": str(address.lock), "log": str(address.log)}


def _import_paths() -> list[str]:
    """The import paths of this process, to which a script may have added, without the script's own folder."""
    script = sys.path[0] if sys.path else ""
    return [path for path in sys.path if path and path != script and Path(path).exists()]


def _shorten(log: Path) -> None:
    with contextlib.suppress(OSError):
        if log.stat().st_size > _MOST_LOG_BYTES:
            log.unlink()
