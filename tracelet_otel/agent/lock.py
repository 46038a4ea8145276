"""At most one agent an address: whoever holds the lock listens on the socket."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Final

WAIT_S: Final = 30.0
"""How long a new agent waits for the one before to end."""
_PAUSE_S: Final = 0.05
_BACKLOG: Final = 128


class Lock:
    """``with Lock(...) as lock:`` is None where another agent serves.

    Args:
        path: of the lock's file, removed at the end.
        socket_path: of the socket that the holder listens on.
    """

    def __init__(self, path: Path, socket_path: Path) -> None:
        self._path = path
        self._socket_path = socket_path
        self._descriptor = -1

    def __enter__(self) -> Lock | None:
        end = time.monotonic() + WAIT_S
        while not self._acquire():
            if time.monotonic() > end or answers(self._socket_path):
                return None
            time.sleep(_PAUSE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)  # before another can have it
            os.close(self._descriptor)
            self._descriptor = -1

    def listen(self) -> socket.socket:
        """The socket; one that an agent left that was killed is replaced."""
        self._socket_path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._socket_path))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return listener

    def leave(self) -> None:
        """From now on nobody finds the socket."""
        self._socket_path.unlink(missing_ok=True)

    def _acquire(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before has removed the file that this is the lock of.
            if os.fstat(descriptor).st_ino == os.stat(self._path).st_ino:  # noqa: PTH116
                self._descriptor = descriptor
                return True
        except OSError:
            pass
        os.close(descriptor)
        return False


def answers(path: Path) -> bool:
    """Whether anybody listens on the socket."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
        tried.settimeout(1.0)
        tried.connect(str(path))
        return True
    return False
