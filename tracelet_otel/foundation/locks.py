"""The one kind of file lock: one process at a time holds it, and it is free as soon as that process is gone.

The kernel has the lock (``flock``), and the file may exist without one. So a killed process leaves nothing to
clean up. On NFS the kernel asks the server for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from filelock import FileLock

_FOLDER_LOCK: Final = "lock"
_POLL_S: Final = 0.02
_PROBE_S: Final = 0.1
"""Longer than another process's own look at the lock takes."""


def acquire(path: Path, *, wait: float = 0.0) -> FileLock | None:
    """Takes the lock of this file, which is made if it is not there and stays after the release.

    The file is removed before the lock is released. A process that waits notices this, and makes a new file.

    Args:
        path: of the file; its folder is made if it is not there.
        wait: seconds at most while another process holds the lock; -1 has no end.

    Returns:
        The lock, until its ``release()``; None if another process holds it.

    Raises:
        OSError: the file cannot be opened, or its file system has no locks.
    """
    from filelock import FileLock, Timeout  # imports asyncio, which the command line does without

    # The process has it, not the thread. Nothing else than the kernel would free what a killed process held.
    lock = FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False, poll_interval=_POLL_S)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        return None
    return lock


def acquire_folder(folder: Path) -> FileLock | None:
    """Takes the lock of a folder, like :func:`acquire`."""
    return acquire(folder / _FOLDER_LOCK)


def is_folder_locked(folder: Path) -> bool:
    """Whether another process holds the folder's lock. Makes no file; takes 0.1 s where the answer is yes."""
    path = folder / _FOLDER_LOCK
    try:
        lock = acquire(path, wait=_PROBE_S) if path.exists() else None
    except OSError:
        return False
    if lock is None:
        return path.exists()
    lock.release()
    return False
