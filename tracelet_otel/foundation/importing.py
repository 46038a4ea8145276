"""Imports of the trackers' clients: one at a time, and in our own processes without what we do not use.

Each delivery imports in its own thread, and the clients import each other. Two threads that each wait for a
module that the other imports get it as it is: Python ends the deadlock so, and the client looks broken.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Final

from tracelet_otel.foundation.forks import SharedLock

_PATIENCE_S: Final = 10.0
IMPORTING: Final = SharedLock(_PATIENCE_S)
"""Held while a tracker's client is imported, or anything else by a thread of ours. A fork waits for it: a
child in which a module is half imported for ever can never import it."""

_in_own_process = False


def say_own_process() -> None:
    """Says that this process is ours alone, as an agent or a gateway is: no script of a user runs in it."""
    global _in_own_process
    _in_own_process = True


@contextmanager
def without(*packages: str) -> Generator[None]:
    """In a process of ours, has this thread's imports find packages as little as if they were not installed.

    For a client that works without them, and imports them for uses that we do not make of it.
    """
    if not _in_own_process:
        yield
        return
    finder = _Absent(packages)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def all_or_nothing(package: str) -> Generator[None]:
    """In a process of ours, removes what an import of a package that fails leaves of it.

    Python keeps the modules below it. Beside them MLflow and W&B cannot be imported again: the package, they
    find, is partially initialized. So one error, such as no free descriptor, would cost the tracker for good.
    """
    try:
        yield
    except BaseException:
        if _in_own_process and package not in sys.modules:
            for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
                del sys.modules[name]
        raise


class _Absent(MetaPathFinder):
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages
        self._thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> None:
        if fullname in self._packages and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def passes(error: Exception) -> bool:
    """Whether the same import or call may work later: the user's own threads import too, or the interpreter
    is about to exit.
    """
    text = str(error)
    return "partially initialized module" in text or "cannot schedule new futures" in text
