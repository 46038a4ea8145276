"""Keeps our use of W&B's client apart from the user's own in the same process.

``wandb.init`` would do more than open a run: it starts one ``wandb-core`` process for all of this process and
names it in ``os.environ``, wraps ``sys.exit`` and ``sys.excepthook``, leaves an ``atexit`` hook that waits
without end, logs the whole process in, settles W&B's settings so that variables set later are ignored, and
makes its run what the user's next ``wandb.init()`` returns. So the steps of ``wandb.init`` are taken one by
one, with a ``_WandbSetup`` (W&B's state of a process) and a ``wandb-core`` of our own. W&B's code finds that
state by ``wandb_setup.singleton()``, which for the calling thread is ours while a call of ours is under way,
and the user's otherwise.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Generator
from typing import Any, Final

from tracelet_otel_exporters.wandb import private

_thread = threading.local()
_lock: Final = threading.RLock()
_replaced: Final = contextlib.ExitStack()
_calls = 0


class _TelemetryOff:
    """Stands in for W&B's switch that turns its telemetry off: off in our calls, else as it was."""

    def __init__(self, users: Any) -> None:
        self._users = users

    def is_set(self) -> bool:
        return getattr(_thread, "setup", None) is not None or self._users.is_set()

    def set(self) -> None:
        self._users.set()


@contextlib.contextmanager
def our_setup(setup: Any) -> Generator[None]:
    """W&B's code that this thread calls meanwhile works on ``setup``, without telemetry."""
    global _calls
    before = getattr(_thread, "setup", None)
    with _lock:
        if _calls == 0:
            users = private.SINGLETON.get()
            _replaced.enter_context(
                private.SINGLETON.replaced(lambda: getattr(_thread, "setup", None) or users())
            )
            switch = _TelemetryOff(private.TELEMETRY_OFF.get())
            _replaced.enter_context(private.TELEMETRY_OFF.replaced(switch))
        _calls += 1
    _thread.setup = setup
    try:
        yield
    finally:
        _thread.setup = before
        with _lock:
            _calls -= 1
            if _calls == 0:
                _replaced.close()


@contextlib.contextmanager
def our_import_hooks() -> Generator[None]:
    """Takes W&B's hook out of ``sys.meta_path`` again where only our runs put it there."""
    was_there = private.IMPORT_HOOKS_INSTALLED.get(default=True)
    yield
    if was_there:
        return
    with private.IMPORT_HOOKS_LOCK.get(default=contextlib.nullcontext()):
        if not private.IMPORT_HOOKS.get(default=True):
            ours = private.IMPORT_HOOKS.module
            sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != ours]
            private.IMPORT_HOOKS_INSTALLED.set(False)
