"""The user's script in a worker of Ray, whose own command line says nothing of it."""

from __future__ import annotations

import sys

from tracelet_otel.instrumentation.callers import users_files
from tracelet_otel.instrumentation.ray import private


def task_script() -> str:
    """The file with the function that is running, the outermost of the user's that called; "" in no worker.

    For the moment at which something is logged, and for the thread that logs it.
    """
    arguments = getattr(sys, "argv", None) or [""]
    if not arguments[0].replace("\\", "/").endswith(private.WORKER_SCRIPT):
        return ""
    found = ""
    for path in users_files():
        if path != arguments[0]:
            found = path
    return found
