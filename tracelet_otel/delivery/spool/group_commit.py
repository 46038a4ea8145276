"""Has the disk keep what was written below a folder; callers at the same time wait together."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path


class GroupCommit:
    """Knows which files and folders have something that is not durable yet.

    Args:
        is_gone: whether a file that is not there was removed on purpose, and need not be durable.
    """

    def __init__(self, is_gone: Callable[[Path], bool]) -> None:
        self._is_gone = is_gone
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._changes = 0
        self._synced = 0
        self._changed: set[Path] = set()

    def changed(self, *paths: Path) -> None:
        """Files were written to, or folders have other files now."""
        with self._lock:
            self._changes += 1
            self._changed.update(paths)

    def sync(self) -> None:
        """Returns once every change so far is on the disk.

        Raises:
            OSError: the disk failed.
        """
        with self._lock:
            wanted = self._changes
        with self._syncing:
            if self._synced >= wanted:
                return
            with self._lock:
                wanted, paths = self._changes, self._changed
                self._changed = set()
            try:
                for path in sorted(paths, reverse=True):  # a file before its folder
                    self._sync(path)
            except OSError:
                with self._lock:
                    self._changed |= paths
                raise
            self._synced = wanted

    def _sync(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if self._is_gone(path):
                return
            raise
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
