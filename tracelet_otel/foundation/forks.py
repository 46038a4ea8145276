"""What a forked child has to find as if nobody else had been there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from weakref import WeakSet

_locks: WeakSet[SharedLock] = WeakSet()


class SharedLock:
    """A re-entrant lock that is free in a forked child, whichever thread of the parent held it.

    Args:
        patience: seconds that a fork waits for a thread that holds it, where the child would miss what that
            thread is about to finish.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self._lock = threading.RLock()
        self._patience = patience
        self._forking = 0
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        """Waits for the thread that holds it, if that shall be."""
        if self._patience and self._lock.acquire(timeout=self._patience):
            self._forking = threading.get_ident()

    def after_fork(self) -> None:
        """In the parent and in the child."""
        if self._forking == threading.get_ident():
            self._forking = 0
            self._lock.release()

    def forget(self) -> None:
        """In a forked child: takes it from threads that are not there. The forking thread keeps it."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


def in_child(action: Callable[[], object]) -> None:
    """Has ``action`` called in every forked child, before anything else of its code; for good."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=action)


def _all() -> tuple[SharedLock, ...]:
    return tuple(_locks)  # a thread that a fork waits for may make one


def _before() -> None:
    for lock in _all():
        lock.before_fork()


def _after() -> None:
    for lock in _all():
        lock.after_fork()


def _forget() -> None:
    for lock in _all():
        lock.after_fork()
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_forget)
