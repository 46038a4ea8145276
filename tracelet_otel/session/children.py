"""How child processes end that end without ``atexit``."""

from __future__ import annotations

import functools
import os
import sys
from typing import NoReturn

from tracelet_otel.foundation.forks import in_child
from tracelet_otel.session import lifecycle

_is_forked = False
_exit_is_wrapped = False


def finish_with_child() -> None:
    """Has the session end with this process, if it is a child that ends without ``atexit``.

    ``os._exit`` is how forked children end, those of ``multiprocessing`` among them. In a process that was
    not forked it stays what it is, the end without a last word.
    """
    if _is_forked:
        _wrap_exit()
        return
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, lifecycle.finish, exitpriority=0)


def _wrap_exit() -> None:
    global _exit_is_wrapped
    if _exit_is_wrapped:  # in the parent, which was forked, too
        return
    _exit_is_wrapped = True
    original = os._exit

    @functools.wraps(original)
    def _exit(status: int) -> NoReturn:
        lifecycle.finish(status)
        original(status)

    os._exit = _exit


def _forked() -> None:
    global _is_forked
    _is_forked = True


in_child(_forked)
