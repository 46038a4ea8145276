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
    """Starts an agent in a folder, with a configuration in JSON's types. It ends if it finds another one.

    Raises:
        TransientError: the process cannot be started.
    """
    # To the import paths a script may have added. The script's own folder comes first, and is left out.
    import_paths = [path for path in sys.path if path and path != sys.path[0] and Path(path).exists()]
    # By a pipe, as every user can read the arguments.
    complete = {**config, "address": [str(part) for part in address], "sys_path": import_paths}
    with contextlib.suppress(OSError):
        if address.log.stat().st_size > _MOST_LOG_BYTES:
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
