"""A run in a repository on disk, written through AIM's own containers.

A container (RocksDB) has one writer at a time. The run stays open here until another process asks for it,
by a file beside AIM's lock of the run, so that all ranks can write into one run.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Final

from tracelet_otel.foundation.errors import TransientError
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.foundation.process_ids import is_alive
from tracelet_otel_exporters.aim import private
from tracelet_otel_exporters.aim.changes import Array, Change, Rows, Tree, errors
from tracelet_otel_exporters.aim.private import Key

_LOGGER: Final = get_logger(__name__)
WAIT_SECONDS: Final = 8.0
"""For another process that has the run, or creates the repository."""
POLL_SECONDS: Final = 0.02
_YIELD_SECONDS: Final = 0.1
"""How often an idle holder looks whether another process wants the run."""
_ABANDONED_SECONDS: Final = 60.0
"""Age at which a request for the run is one of a dead process."""


class LocalStore:
    """A run on disk. Everything but :meth:`close` is used inside ``with store.held()`` only.

    Args:
        repository: its folder, ``.aim``.
        run_hash: AIM's name of the run.
        row: finds or makes a run's row in the relational database.
    """

    def __init__(self, repository: Path, run_hash: str, row: Callable[[str], Any]) -> None:
        self.hash = run_hash
        self.generation = 0
        """Counts how often the run was taken: while it stays the same, nobody else has written."""
        self._path = repository
        self._row = row
        self._containers: dict[Tree, Any] = {}
        self._props: Any = None
        self._mutex = threading.RLock()
        self._released = threading.Event()
        self._watch: threading.Thread | None = None
        self._lock_path = self._path / "locks" / f"{run_hash}.softlock"
        self._locked = False

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """Takes the run, or keeps it where it is ours already; waits a few seconds for another process.

        Raises:
            TransientError: another process has it.
        """
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

    def read(self, tree: Tree, path: Key) -> Any:
        """The value at a path with everything below it, or None."""
        try:
            return self._containers[tree].tree().collect(path)
        except KeyError:
            return None

    def items(self, tree: Tree, path: Key) -> list[tuple[int, Any]]:
        """The children of a path, for paths with more of them than fit into :meth:`read`'s list."""
        return list(self._containers[tree].tree().items(path))

    def values(self, tree: Tree, path: Key, keys: Sequence[int]) -> dict[int, Any]:
        """Those of the children of a path that are there."""
        found = {key: self.read(tree, (*path, key)) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def commit(self, changes: Sequence[Change]) -> None:
        """Makes changes, those to each tree at once; ``seqs`` first, as what is listed must have values."""
        encode, encode_path = private.ENCODE.get(), private.ENCODE_PATH.get()
        encode_tree, array = private.ENCODE_TREE.get(), encode(private.ARRAY_FLAG.get())
        batches: dict[Tree, Any] = {}
        keys: dict[int, bytes] = {}
        for change in sorted(changes, key=lambda change: change.tree != "seqs"):
            container = self._containers[change.tree]
            if (batch := batches.get(change.tree)) is None:
                batch = batches[change.tree] = container.batch()
            prefix = encode_path(change.path)
            if isinstance(change, Rows):
                for key, value in change.values:
                    if (encoded := keys.get(key)) is None:
                        encoded = keys[key] = encode_path((key,))
                    batch.put(prefix + encoded, encode(value))
            elif isinstance(change, Array):
                container.set(prefix, array, store_batch=batch)
            else:
                container.delete_range(prefix, prefix + b"\xff", store_batch=batch)
                for key, value in encode_tree(change.value):
                    container.set(prefix + key, value, store_batch=batch)
        for tree, batch in batches.items():
            self._containers[tree].commit(batch)

    def props(self) -> Any:
        """The run's row in AIM's relational database."""
        if self._props is None:
            self._props = self._row(self.hash)
        return self._props

    def index(self, wait: float) -> None:
        """Copies the run's ``meta`` into the repository's index, as ``RepoIndexManager.index`` does.

        From the index ``aim up`` and ``Repo.query_*`` list runs: a run that is not indexed is found by no
        query. Nothing but ``aim storage reindex`` and a running ``aim up`` keeps it up to date. While that
        serves this repository, nothing happens: its indexing thread ends, or leaves the run out for good,
        when the index is open elsewhere at the wrong moment. ``wait`` is for another process that has the
        index, in seconds.
        """
        if is_served(self._path):
            return
        deadline = time.monotonic() + wait
        while True:
            try:
                index = private.open_container(self._path / "meta" / "index")
                break
            except Exception as error:
                if time.monotonic() > deadline:
                    _LOGGER.debug("AIM's index is taken, run %s is indexed later: %s", self.hash, error)
                    return
                time.sleep(POLL_SECONDS)
        try:
            batch = index.batch()
            prefix = private.ENCODE_PATH.get()(private.run_key(self.hash))
            index.delete_range(prefix, prefix + b"\xff", store_batch=batch)
            for key, value in self._containers["meta"].items():
                index.set(key, value, store_batch=batch)
            index.commit(batch)
        finally:
            index.close()

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
        request = self._lock_path.with_name(f"{self.hash}.{uuid.uuid4().hex}.wanted")
        try:
            while (error := self._try_to_open()) is not None:
                if time.monotonic() > deadline:
                    raise TransientError(f"another process has run {self.hash}: {error}") from error
                request.touch()
                time.sleep(POLL_SECONDS)
        finally:
            request.unlink(missing_ok=True)
        self.generation += 1
        self._released = threading.Event()
        self._watch = threading.Thread(
            target=self._yield_when_wanted, args=(self._released,), name="tracelet-aim", daemon=True
        )
        self._watch.start()

    def _try_to_open(self) -> Exception | None:
        """Takes the run; returns what tells that another process has it.

        The lock is in AIM's own format, so that ``aim.Run`` and ours respect each other. One of a process
        that is gone from this machine is replaced.
        """
        this_machine = uuid.getnode()
        with contextlib.suppress(OSError, ValueError):
            machine, pid, *_ = self._lock_path.read_text(encoding="utf-8").split("-")
            if int(machine) == this_machine and not is_alive(int(pid)):
                self._lock_path.unlink(missing_ok=True)
        try:
            with self._lock_path.open("x") as lock:
                self._locked = True
                lock.write(f"{this_machine}-{os.getpid()}-{time.time()}")
            for tree in ("meta", "seqs"):
                folder = self._path / tree / "chunks" / self.hash
                self._containers[tree] = private.open_container(folder)
        except Exception as error:
            self._give_back()
            if isinstance(error, OSError) or "IO" in type(error).__name__:
                return error
            raise
        return None

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
        for path in self._lock_path.parent.glob(f"{self.hash}.*.wanted"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime < _ABANDONED_SECONDS:
                    return True
                path.unlink(missing_ok=True)
        return False

    def _yield_when_wanted(self, released: threading.Event) -> None:
        while not released.wait(_YIELD_SECONDS):
            if self._is_wanted() and self._mutex.acquire(blocking=False):
                try:
                    if released is self._released:
                        self._give_back()
                finally:
                    self._mutex.release()
                return


def is_served(repository: Path) -> bool:
    """Whether an ``aim up`` of this machine and user serves the repository."""
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if private.USER_INTERFACE not in (process.info["cmdline"] or ()):
            continue
        with contextlib.suppress(psutil.Error, OSError):
            served = process.environ().get(private.SERVED_REPOSITORY)
            if not served or os.path.realpath(served) == os.path.realpath(repository):
                return True
    return False
