"""The index of a repository on disk, from which ``aim up`` and ``Repo.query_*`` list runs.

``aim up`` keeps it up to date while it runs; nothing else in AIM does but ``aim storage reindex``. A run
that is not indexed is found by no query.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any, Final

from tracelet_otel.foundation.logs import get_logger
from tracelet_otel_exporters.aim import private

_LOGGER: Final = get_logger(__name__)


def write(repository: Path, run_hash: str, meta: Any, *, wait: float = 0.0) -> None:
    """Copies a run's ``meta`` container into the index, as ``RepoIndexManager.index`` does.

    Nothing happens while ``aim up`` serves this repository: its indexing thread ends, or leaves the run out
    for good, when the index is open elsewhere at the wrong moment. Waits up to ``wait`` seconds for
    another process that has the index.
    """
    if is_served(repository):
        return
    deadline = time.monotonic() + wait
    while True:
        try:
            index = private.open_container(repository / "meta" / "index")
            break
        except Exception as error:
            if time.monotonic() > deadline:
                _LOGGER.debug("AIM's index is taken, run %s is indexed later: %s", run_hash, error)
                return
            time.sleep(0.02)
    try:
        batch = index.batch()
        prefix = private.ENCODE_PATH.get()(private.run_key(run_hash))
        index.delete_range(prefix, prefix + b"\xff", store_batch=batch)
        for key, value in meta.items():
            index.set(key, value, store_batch=batch)
        index.commit(batch)
    finally:
        index.close()


def is_served(repository: Path) -> bool:
    """Whether an ``aim up`` of this machine and user serves the repository."""
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if private.USER_INTERFACE not in (process.info["cmdline"] or ()):
            continue
        with contextlib.suppress(psutil.Error, OSError):
            served = process.environ().get(private.SERVED_REPOSITORY)
            if served and os.path.realpath(served) != os.path.realpath(repository):
                continue
            return True
    return False
