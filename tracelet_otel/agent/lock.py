"""At most one agent has an address: the one that holds the lock listens on the socket."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from tracelet_otel.foundation.locks import acquire

WAIT_S: Final = 30.0
"""How long a new agent waits for the one before to end."""
_PAUSE_S: Final = 0.05
_BACKLOG: Final = 128


@contextlib.contextmanager
def sole_agent(lock_path: Path, socket_path: Path) -> Generator[bool]:
    """Holds the lock of an address; whether this process is its agent. False where another agent serves.

    Args:
        lock_path: of the lock's file, removed at the end.
        socket_path: of the socket that the holder listens on.
    """
    end = time.monotonic() + WAIT_S
    while (lock := acquire(lock_path)) is None:
        if time.monotonic() > end or is_served(socket_path):
            yield False
            return
        time.sleep(_PAUSE_S)
    try:
        yield True
    finally:
        lock_path.unlink(missing_ok=True)  # before another agent can have the lock
        lock.release()


def listen(socket_path: Path) -> socket.socket:
    """A socket that listens; the file that a killed agent left is replaced."""
    socket_path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(socket_path))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def is_served(socket_path: Path) -> bool:
    """Whether a process listens on the socket."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
        tried.settimeout(1.0)
        tried.connect(str(socket_path))
        return True
    return False
