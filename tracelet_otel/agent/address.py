"""Where an agent is found, and how it is started. One run with the same backends has one on a machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracelet_otel.foundation.errors import PermanentError, TransientError

SPOOL_PREFIX: Final = "agent-"
"""How the name of an agent's folder among the spools begins; its key follows."""
_LONGEST_SOCKET: Final = 103 if sys.platform == "darwin" else 107
"""Bytes of a Unix socket's path; unix(7), ``sun_path``."""
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


class Address(NamedTuple):
    """The names of one agent's files, in a folder that only this user can enter."""

    key: str
    socket: Path
    lock: Path
    """The agent holds this lock as long as it lives."""
    log: Path


def address_of(run_id: str, backends: Mapping[str, Mapping[str, Any]], state: Path, folder: str) -> Address:
    """The address that all processes have which may share an agent, such as a run's ranks. Makes its folder.

    ``backends`` has their options in JSON's types, and ``folder`` is the current one.

    Raises:
        PermanentError: there is no folder that only this user can enter.
    """
    # Machines may share the state folder, and containers the folder of sockets.
    named = json.dumps([socket.gethostname(), run_id, backends, str(state), folder], sort_keys=True)
    key = hashlib.sha256(named.encode()).hexdigest()[:16]
    parents = ["/tmp", os.environ.get("XDG_RUNTIME_DIR", "")]
    with contextlib.suppress(OSError):  # no temporary folder can be written to
        parents.insert(0, tempfile.gettempdir())
    problem = ""
    for parent in filter(None, parents):
        base = Path(parent, f"tracelet-otel-{os.getuid()}", key)
        found = Address(key, *(base.with_suffix(suffix) for suffix in (".socket", ".lock", ".log")))
        if len(os.fsencode(found.socket)) <= _LONGEST_SOCKET and not (problem := _claim(base.parent)):
            return found
    raise PermanentError(f"there is no folder for the agent's socket: {problem or 'no temporary folder'}")


def _claim(folder: Path) -> str:
    """Makes a folder that only this user can enter. Returns why that is impossible, or nothing."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return f"{folder} is another user's"
        if found.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        return str(error)
    return ""


def launch(address: Address, folder: str, config: Mapping[str, Any]) -> None:
    """Starts an agent in a folder, with a configuration in JSON's types. It ends if it finds another one.

    Raises:
        TransientError: the process cannot be started.
    """
    # A script may have added to the import paths. Its own folder, which comes first, is left out.
    import_paths = [path for path in sys.path if path and path != sys.path[0] and Path(path).exists()]
    # By a pipe, as every user can read the arguments.
    complete = {**config, "address": [str(part) for part in address], "sys_path": import_paths}
    with contextlib.suppress(OSError):
        if address.log.stat().st_size > 1024 * 1024:
            address.log.unlink()
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
