"""Has the disk keep what was written to some files; whoever asks at the same time waits together."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Final

_MOST_FILES: Final = 64
"""That have something which is not durable yet, if nobody asks."""


class GroupCommit:
    """Knows what was written and is not durable yet.

    Args:
        folder: of the files.
        lock: held by whoever calls anything here but :meth:`sync` and :meth:`close`.
    """

    def __init__(self, folder: Path, lock: threading.RLock) -> None:
        self._folder = folder
        self._lock = lock
        self._syncing = threading.Lock()
        self._written = 0
        self._synced = 0
        self._files: list[IO[bytes]] = []
        self._retired: list[IO[bytes]] = []
        self._has_new_file = False

    def wrote(self, file: IO[bytes], *, is_new: bool) -> None:
        """Something was written to a file, which may not have been there before."""
        self._written += 1
        self._has_new_file |= is_new
        if file not in self._files:
            self._files.append(file)

    def sync(self) -> None:
        """Returns once everything that was written before is on the disk.

        Raises:
            OSError: the disk failed.
        """
        with self._lock:
            wanted = self._written
        with self._syncing:
            if self._synced >= wanted:
                return
            with self._lock:
                wanted = self._written
                files, self._files = self._files, []
                has_new_file, self._has_new_file = self._has_new_file, False
            try:
                for file in files:
                    if not file.closed:
                        os.fsync(file.fileno())
                if has_new_file:
                    _sync_folder(self._folder)
            except OSError:
                with self._lock:
                    self._files += files
                    self._has_new_file |= has_new_file
                raise
            self._synced = wanted
            with self._lock:
                self._close_retired()

    def forget(self, paths: Iterable[Path]) -> None:
        """These files are removed, and need not be durable."""
        names = set(map(str, paths))
        self._files = [file for file in self._files if file.name not in names]

    def retire(self, files: Iterable[IO[bytes]]) -> None:
        """Closes files that nothing is appended to any more, once they are durable.

        Raises:
            OSError: the disk failed.
        """
        self._retired += files
        if len(self._files) > _MOST_FILES:
            for file in self._files:
                os.fsync(file.fileno())
            self._files.clear()
        if self._syncing.acquire(blocking=False):  # else one may be in the hands of another thread's sync()
            try:
                self._close_retired()
            finally:
                self._syncing.release()

    def close(self, files: Iterable[IO[bytes]]) -> None:
        """Closes these files and all that were retired, durable or not."""
        with self._syncing, self._lock:
            for file in (*files, *self._retired):
                file.close()
            self._retired.clear()

    def _close_retired(self) -> None:
        kept: list[IO[bytes]] = []
        for file in self._retired:
            if file in self._files:
                kept.append(file)
            else:
                file.close()
        self._retired = kept


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
