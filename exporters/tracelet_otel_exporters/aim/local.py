"""A run in a repository on disk, written through AIM's own containers.

A container (RocksDB) has one writer at a time. The run stays open here until another process asks for it,
by a file beside AIM's lock of the run, so that all ranks can write into one run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any, Final

from tracelet_otel.foundation.errors import TransientError
from tracelet_otel_exporters.aim import index as aim_index
from tracelet_otel_exporters.aim.containers import open_container
from tracelet_otel_exporters.aim.locks import POLL_SECONDS, WAIT_SECONDS, TakenError, exists_while, take_run
from tracelet_otel_exporters.aim.store import Array, Change, Path, Props, Rows, Tree, errors, library, ordered

_YIELD_SECONDS: Final = 0.1
"""How often an idle holder looks whether another process wants the run."""
_ABANDONED_SECONDS: Final = 60.0
"""Age at which a request for the run is one of a dead process."""
_UPGRADE_SECONDS: Final = 120.0
_INDEX_SECONDS: Final = 10.0


class LocalRepository:
    """A repository on disk; made at :meth:`connect` if it is not there, without changing the process.

    Args:
        root: the folder that holds ``.aim``.
    """

    def __init__(self, root: str) -> None:
        from aim.sdk.configs import get_aim_repo_name

        self.path = FilePath(root, get_aim_repo_name())
        self.location = str(self.path)
        self.files: str | None = (self.path / "artifacts").as_uri()
        self.database: Any = None

    def connect(self) -> None:
        """Opens the repository, or makes it as ``aim init`` does."""
        from aim.sdk.repo import Repo, RepoStatus
        from aim.storage.structured.db import DB

        with errors():
            if Repo.check_repo_status(str(self.path.parent)) == RepoStatus.MISSING:
                self._make()
            self._wait_until_made()
            status = Repo.check_repo_status(str(self.path.parent))
            if status == RepoStatus.UPDATE_REQUIRED and (self.path / "VERSION").exists():
                raise RuntimeError(
                    f"{self.path} is of an old version of AIM, which it has to be upgraded from first"
                )
            (self.path / "locks").mkdir(exist_ok=True)
            if self.database is None:
                self.database = DB(str(self.path))  # our own: the user's is theirs
            if status != RepoStatus.UPDATED:
                with self.database_lock():
                    if Repo.check_repo_status(str(self.path.parent)) != RepoStatus.UPDATED:
                        _fill(self.path)

    def store(self, run_hash: str) -> LocalStore:
        """The run of this hash, which need not exist."""
        return LocalStore(self, run_hash)

    def close(self) -> None:
        """Closes the relational database."""
        if self.database is not None:
            self.database.session_cls.remove()
            self.database.engine.dispose()
            self.database = None

    @contextlib.contextmanager
    def database_lock(self) -> Generator[None]:
        """AIM's lock of the relational database, for seconds instead of five minutes."""
        with exists_while(self.path / "locks" / "structured_db_lock", "the database"):
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
        """Leaves a repository without a version to whoever has just begun to make it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (self.path / "VERSION").exists():
            if time.time() - self.path.stat().st_mtime > _UPGRADE_SECONDS:
                return  # that process is dead
            if time.monotonic() > deadline:
                raise TransientError(f"another process makes the repository {self.path}")
            time.sleep(POLL_SECONDS)


def _fill(path: FilePath) -> None:
    """Makes or upgrades what is in the folder of a repository, as ``aim init`` does."""
    from aim.sdk.data_version import DATA_VERSION
    from aim.storage.migrations.utils import create_migration_cmd
    from aim.storage.structured.db import DB

    open_container(path / "meta" / "index").close()
    # As aim.storage.migrations.utils.upgrade_database does, but quiet and bounded.
    variables = {**os.environ, "AIM_RUN_META_DATA_DB_URL": str(DB.get_db_url(str(path)))}
    subprocess.run(
        create_migration_cmd(),
        env=variables,
        cwd=path,
        check=True,
        timeout=_UPGRADE_SECONDS,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    (path / "VERSION").write_text(".".join(map(str, DATA_VERSION)) + "\n", encoding="utf-8")


class LocalStore:
    """A run on disk, see :class:`~tracelet_otel_exporters.aim.store.Store`."""

    def __init__(self, repository: LocalRepository, run_hash: str) -> None:
        self.hash = run_hash
        self.generation = 0
        self._repository = repository
        self._path = repository.path
        self._containers: dict[Tree, Any] = {}
        self._props: Any = None
        self._mutex = threading.RLock()
        self._released = threading.Event()
        self._watch: threading.Thread | None = None
        self._indexed = 0.0
        self._lock_path = self._path / "locks" / f"{run_hash}.softlock"
        self._locked = False

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """Takes the run, or keeps it where it is ours already."""
        with self._mutex, errors():
            if not self._containers:
                self._open()
            try:
                yield
            except BaseException:
                self._give_back()
                raise
            if self._is_wanted():
                self._give_back()

    def read(self, tree: Tree, path: Path) -> Any:
        """The value at a path with everything below it, or None."""
        try:
            return self._containers[tree].tree().collect(path)
        except KeyError:
            return None

    def items(self, tree: Tree, path: Path) -> Iterator[tuple[int, Any]]:
        """The children of a path."""
        return iter(list(self._containers[tree].tree().items(path)))

    def values(self, tree: Tree, path: Path, keys: Sequence[int]) -> dict[int, Any]:
        """Those of the children of a path that are there."""
        found = {key: self.read(tree, (*path, key)) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def commit(self, changes: Sequence[Change]) -> None:
        """Makes changes, those to each store at once."""
        encoding = library("aim.storage.encoding")
        encode_tree = library("aim.storage.treeutils").encode_tree
        array = encoding.encode(library("aim.storage.utils").ArrayFlag)
        batches: dict[Tree, Any] = {}
        keys: dict[int, bytes] = {}
        encode, encode_path = encoding.encode, encoding.encode_path
        for change in ordered(changes):
            container = self._containers[change.tree]
            batch = batches.get(change.tree)
            if batch is None:
                batch = batches[change.tree] = container.batch()
            prefix = encode_path(change.path)
            if isinstance(change, Rows):
                put = batch.put
                for key, value in change.values:
                    encoded = keys.get(key)
                    if encoded is None:
                        encoded = keys[key] = encode_path((key,))
                    put(prefix + encoded, encode(value))
            elif isinstance(change, Array):
                container.set(prefix, array, store_batch=batch)
            else:
                container.delete_range(prefix, prefix + b"\xff", store_batch=batch)
                for key, value in encode_tree(change.value):
                    container.set(prefix + key, value, store_batch=batch)
        for tree, batch in batches.items():
            self._containers[tree].commit(batch)

    def props(self) -> Props:
        """The run's row in AIM's relational database."""
        if self._props is None:
            database = self._repository.database
            found = database.find_run(self.hash)
            if not found:
                with self._repository.database_lock():
                    found = database.find_run(self.hash) or database.create_run(self.hash)
            self._props = found
        return self._props

    def index(self, *, final: bool = False) -> None:
        """Copies the run's ``meta`` into the repository's index, unless ``aim up`` does."""
        if not final and time.monotonic() - self._indexed < _INDEX_SECONDS:
            return
        self._indexed = time.monotonic()
        aim_index.write(self._path, self.hash, self._containers["meta"], wait=2.0 if final else 0.0)

    def is_new(self) -> bool:
        """Whether nothing has been written yet."""
        return self.read("meta", ("meta", "chunks", self.hash)) is None

    def close(self) -> None:
        """Gives the run back."""
        with self._mutex:
            self._give_back()
            self._props = None
        if self._watch is not None:
            self._watch.join()
            self._watch = None

    def _open(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        request: FilePath | None = None
        try:
            while True:
                try:
                    take_run(self._lock_path)
                    self._locked = True
                    for tree in ("meta", "seqs"):
                        self._containers[tree] = open_container(self._path / tree / "chunks" / self.hash)
                    break
                except Exception as error:
                    self._give_back()
                    if not isinstance(error, (TakenError, OSError)) and "IO" not in type(error).__name__:
                        raise
                    if time.monotonic() > deadline:
                        raise TransientError(f"another process has run {self.hash}: {error}") from error
                if request is None:
                    request = self._path / "locks" / f"{self.hash}.{uuid.uuid4().hex}.wanted"
                    request.touch()
                time.sleep(POLL_SECONDS)
        finally:
            if request is not None:
                request.unlink(missing_ok=True)
        self.generation += 1
        self._released = threading.Event()
        self._watch = threading.Thread(
            target=self._yield_when_wanted, args=(self._released,), name="tracelet-aim", daemon=True
        )
        self._watch.start()

    def _give_back(self) -> None:
        containers, self._containers = self._containers, {}
        for container in containers.values():
            with contextlib.suppress(Exception):
                container.close()
        if self._locked:
            self._locked = False
            self._lock_path.unlink(missing_ok=True)
        self._released.set()

    def _is_wanted(self) -> bool:
        wanted = False
        for path in self._path.joinpath("locks").glob(f"{self.hash}.*.wanted"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime < _ABANDONED_SECONDS:
                    wanted = True
                else:
                    path.unlink(missing_ok=True)
        return wanted

    def _yield_when_wanted(self, released: threading.Event) -> None:
        while not released.wait(_YIELD_SECONDS):
            if self._is_wanted() and self._mutex.acquire(blocking=False):
                try:
                    if released is self._released:
                        self._give_back()
                finally:
                    self._mutex.release()
                return
