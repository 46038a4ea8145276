"""The user's script in a worker of Ray, whose own command line says nothing of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from tracelet_otel.instrumentation.ray import private

_OURS: Final = str(Path(__file__).parents[2])


def task_script() -> str:
    """The file with the function that is running, the outermost of the user's that called; "" in no worker.

    For the moment at which something is logged, and for the thread that logs it.
    """
    arguments = getattr(sys, "argv", None) or [""]
    if not arguments[0].replace("\\", "/").endswith(private.WORKER_SCRIPT):
        return ""
    found, frame = "", sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        path = frame.f_code.co_filename
        if _is_users(path) and path != arguments[0]:
            found = path
        frame = frame.f_back
    return found


def _is_users(path: str) -> bool:
    if any(part in path for part in ("site-packages", "dist-packages")) or not Path(path).is_file():
        return False
    return not path.startswith((_OURS, os.path.dirname(os.__file__) + os.sep))  # noqa: PTH120 - texts
