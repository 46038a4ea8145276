"""The files of a spool's media folder: each stays while a line of the spool names it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool.lines import MEDIA, media_names
from tracelet_otel.foundation.guard import log_once


class KeptFiles:
    """Counts by how many lines each file is named. Not thread-safe: its spool holds a lock.

    Args:
        folder: the spool's.
    """

    def __init__(self, folder: Path) -> None:
        self._spool = folder
        self._folder = folder / MEDIA
        self._named: Counter[str] = Counter()

    def add(self, names: Iterable[str]) -> None:
        """A line names these files."""
        self._named.update(names)

    def adopt(self) -> int:
        """Removes what an earlier process left and no line names; the bytes of the others.

        Raises:
            OSError: the folder cannot be read or written.
        """
        size = 0
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.name in self._named:
                size += path.stat().st_size
            else:
                path.unlink()
        return size

    def release(self, batch: Batch) -> int:
        """A line is gone, and with it the files that no other names; the bytes that are free now."""
        freed = 0
        for name in media_names(batch, self._spool) if self._named else ():
            self._named[name] -= 1
            if self._named[name] > 0:
                continue
            del self._named[name]
            path = self._folder / name
            try:
                size = path.stat().st_size
                path.unlink()
            except OSError as error:
                log_once(f"media {self._spool}", logging.WARNING, "%s is not removed: %s", path, error)
            else:
                freed += size
        return freed
