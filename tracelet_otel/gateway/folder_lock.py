"""A folder that one process at a time uses."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from tracelet_otel.settings import ConfigurationError

LOCK: Final = "lock"


class FolderLock:
    """Holds a folder, which is made if it is not there, until it is released or the process ends.

    Raises:
        ConfigurationError: another process holds it, or it cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        import fcntl  # not on Windows, where there is no gateway

        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{folder} cannot be written to: {error}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise ConfigurationError(f"{folder / LOCK} cannot be locked: {error}") from error
            raise ConfigurationError(
                f"another gateway uses {folder}: give this one a --name of its own"
            ) from error

    def release(self) -> None:
        """Lets the next process have it."""
        os.close(self._descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder."""
    if not (folder / LOCK).exists():
        return False
    import fcntl

    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
