"""A repository on disk: found, made or upgraded as AIM does, but quietly and in limited time."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel_exporters.aim import private
from tracelet_otel_exporters.aim.changes import errors
from tracelet_otel_exporters.aim.local_store import POLL_SECONDS, WAIT_SECONDS

_STALE_SECONDS: Final = 180.0
"""Age at which a lock of the relational database is that of a dead process."""
_UPGRADE_SECONDS: Final = 120.0


class LocalRepository:
    """A repository on disk; made at :meth:`connect` if it is not there, without changing the process.

    Args:
        path: of ``.aim`` itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(self.path)
        self.files = (self.path / "artifacts").as_uri()
        self._database: Any = None

    def connect(self) -> None:
        """Opens the repository, or makes it as ``aim init`` does."""
        with errors():
            if self._status() == "MISSING":
                self._make()
            self._wait_until_made()
            status = self._status()
            if status == "UPDATE_REQUIRED" and (self.path / "VERSION").exists():
                raise PermanentError(
                    f"{self.path} is of an old version of AIM, which it has to be upgraded from first"
                )
            (self.path / "locks").mkdir(exist_ok=True)
            if self._database is None:
                self._database = private.DATABASE.get()(str(self.path))  # our own, not the user's
            if status != "UPDATED":
                with self._database_lock():
                    if self._status() != "UPDATED":
                        _fill(self.path)

    def close(self) -> None:
        """Closes the relational database."""
        if self._database is not None:
            self._database.session_cls.remove()
            self._database.engine.dispose()
            self._database = None

    def row(self, run_hash: str) -> Any:
        """The run's row in the relational database, made if there is none."""
        if not (found := self._database.find_run(run_hash)):
            with self._database_lock():
                found = self._database.find_run(run_hash) or self._database.create_run(run_hash)
        return found

    def _status(self) -> str:
        return private.REPOSITORY_STATUS.get()(str(self.path.parent)).name

    @contextlib.contextmanager
    def _database_lock(self) -> Generator[None]:
        """AIM's lock of the relational database, waited for seconds instead of five minutes."""
        import filelock  # AIM's own, so that both understand each other's locks

        path = self.path / "locks" / "structured_db_lock"
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
        with filelock.SoftFileLock(path, timeout=WAIT_SECONDS, poll_interval=POLL_SECONDS):
            yield

    def _make(self) -> None:
        """Makes it beside its place: to ``aim.Run`` of a script, a half-made one is of an old version."""
        new = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        try:
            (new / "locks").mkdir(parents=True)
            _fill(new)
            with contextlib.suppress(OSError):  # another process was faster
                new.rename(self.path)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _wait_until_made(self) -> None:
        """Leaves a repository without a version to the process that has just begun to make it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (self.path / "VERSION").exists():
            if time.time() - self.path.stat().st_mtime > _UPGRADE_SECONDS:
                return  # that process is dead
            if time.monotonic() > deadline:
                raise TransientError(f"another process makes the repository {self.path}")
            time.sleep(POLL_SECONDS)


def _fill(path: Path) -> None:
    """Makes or upgrades what is in the folder of a repository, as ``aim init`` does."""
    if (command := private.MIGRATION_COMMAND.get()) is None:
        raise PermanentError(f"there is no repository {path.parent}: make it with `aim init`")
    private.open_container(path / "meta" / "index").close()
    # As aim.storage.migrations.utils.upgrade_database does, but quiet and bounded.
    database = private.DATABASE.get().get_db_url(str(path))
    subprocess.run(
        command(),
        env={**os.environ, "AIM_RUN_META_DATA_DB_URL": str(database)},
        cwd=path,
        check=True,
        timeout=_UPGRADE_SECONDS,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    version = ".".join(map(str, private.DATA_VERSION.get()))
    (path / "VERSION").write_text(f"{version}\n", encoding="utf-8")
