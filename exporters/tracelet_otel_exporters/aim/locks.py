"""AIM's own locks on disk, taken for a limited time: files that exist while something is locked."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from tracelet_otel.foundation.errors import TransientError
from tracelet_otel_exporters.aim.store import library

WAIT_SECONDS: Final = 8.0
"""For another process that has the run, or creates the repository."""
POLL_SECONDS: Final = 0.02
_STALE_SECONDS: Final = 180.0
"""Age at which a lock of the relational database is a dead process's."""


class TakenError(Exception):
    """Another process has the run."""


def take_run(path: Path) -> None:
    """Takes a run's lock, in AIM's own format, so that ``aim.Run`` and ours respect each other.

    One of a process that is gone from this machine is replaced.

    Raises:
        TakenError: another process has it.
    """
    manager = library("aim.sdk.lock_manager").LockManager
    with contextlib.suppress(OSError, ValueError):
        machine, pid, *_ = path.read_text(encoding="utf-8").split("-")
        if int(machine) == manager.machine_id and not _is_alive(int(pid)):
            path.unlink(missing_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        raise TakenError(f"{path} exists") from None
    with os.fdopen(file, "w") as lock:
        lock.write(f"{manager.machine_id}-{os.getpid()}-{time.time()}")


@contextlib.contextmanager
def exists_while(path: Path, what: str) -> Generator[None]:
    """A file that exists while it is locked, as ``filelock.SoftFileLock``'s does."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            break
        except FileExistsError:
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink(missing_ok=True)
                    continue
            if time.monotonic() > deadline:
                raise TransientError(f"another process has {what}: {path}") from None
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
