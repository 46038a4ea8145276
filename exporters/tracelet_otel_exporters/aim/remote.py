"""A run behind a remote tracking server.

The server's own lock of the run is left alone, so that several processes can write into one run.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Sequence
from typing import Any, Final

from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel_exporters.aim import private
from tracelet_otel_exporters.aim.changes import Array, Change, Rows, Tree
from tracelet_otel_exporters.aim.private import Key
from tracelet_otel_exporters.aim.server import AimServer

MESSAGE_VALUES: Final = 200
"""Values in one message, about 50 KB: the server's time for a message grows with the square of its size."""


class RemoteStore:
    """A run behind a server, with the methods of a run on disk: ``LocalStore`` tells what they do."""

    def __init__(self, repository: AimServer, run_hash: str) -> None:
        self.hash = run_hash
        self._repository = repository
        self._generation = 0
        self._handles: dict[str, str] = {}

    @property
    def generation(self) -> int:
        """Counts the connections: after a new one, the run is looked at again."""
        return self._repository.generation

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """Connects where need be; the server lets several clients write."""
        with self._repository.calls():
            if self._generation != self._repository.generation:
                self._handles = {}
                self._generation = self._repository.generation
                self._tree("seqs")  # there in every run of AIM's, also in one without values
            yield

    def read(self, tree: Tree, path: Key) -> Any:
        """The value at a path with everything below it, or None."""
        try:
            return self._repository.call(self._tree(tree), "collect", path, True, False)
        except KeyError:
            return None

    def items(self, tree: Tree, path: Key) -> list[tuple[int, Any]]:
        """The children of a path."""
        return self._repository.call(self._tree(tree), "items_eager", path)

    def values(self, tree: Tree, path: Key, keys: Sequence[int]) -> dict[int, Any]:
        """Those of the children of a path that are there; one question, however many."""
        if len(keys) == 1:
            value = self.read(tree, (*path, keys[0]))
            return {} if value is None else {keys[0]: value}
        wanted = set(keys)
        return {key: value for key, value in self.items(tree, path) if key in wanted}

    def commit(self, changes: Sequence[Change]) -> None:
        """Makes changes, in messages of a limited size, ``seqs`` first; a repeat leaves the same content."""
        message: list[tuple[str, str, Sequence[Any]]] = []
        size = 0
        for change in sorted(changes, key=lambda change: change.tree != "seqs"):
            handle = self._tree(change.tree)
            if isinstance(change, Rows):
                for start in range(0, len(change.values), MESSAGE_VALUES):
                    part = change.values[start : start + MESSAGE_VALUES]
                    if size + len(part) > MESSAGE_VALUES:
                        self._repository.send(message)
                        message, size = [], 0
                    message.append((handle, "update", (change.path, part)))
                    size += len(part)
                continue
            if isinstance(change, Array):
                message.append((handle, "make_array", (change.path,)))
            else:
                message.append((handle, "set", (change.path, change.value, True)))
            size += 1
        if message:
            self._repository.send(message)

    def props(self) -> Any:
        """The run's row in the server's database."""
        if "props" not in self._handles:
            arguments = {"hash_": self.hash, "read_only": False, "created_at": None}
            self._handles["props"] = self._repository.resource("StructuredRun", arguments)
        return _Props(self._repository, self._handles["props"])

    def index(self, wait: float) -> None:
        """Has the server copy the run's ``meta`` into the repository's index.

        Not where the server cannot open it, which is so while an ``aim up`` beside it is indexing.
        """
        if (reference := private.RESOURCE.get()) is None:
            return
        try:
            index = self._repository.resource("TreeView", _tree("meta", None, index=True))
        except (TransientError, PermanentError, KeyError, RuntimeError):
            return
        try:
            self._repository.call(self._tree("meta"), "finalize", reference(index))
        finally:
            self._repository.release(index)

    def close(self) -> None:
        """Lets go of the run in the server, which closes its files there."""
        if self._generation == self._repository.generation:
            for handle in self._handles.values():
                with contextlib.suppress(Exception):
                    self._repository.release(handle)
        self._handles = {}
        self._generation = 0

    def _tree(self, tree: Tree) -> str:
        if tree not in self._handles:
            self._handles[tree] = self._repository.resource("TreeView", _tree(tree, self.hash))
        return self._handles[tree]


class _Props:
    def __init__(self, repository: AimServer, handle: str) -> None:
        object.__setattr__(self, "_call", functools.partial(repository.call, handle))

    def __getattr__(self, name: str) -> Any:
        is_attribute = name in ("name", "experiment", "tags")
        return self._call(name) if is_attribute else functools.partial(self._call, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._call(f"{name}.setter", value)


def _tree(name: str, sub: str | None, *, index: bool = False) -> dict[str, Any]:
    return {"name": name, "sub": sub, "read_only": False, "index": index, "timeout": 0 if index else None}
