"""What a run in AIM is to the tracker: trees of values, in a repository on disk or behind a server.

AIM keeps a run as two key-value stores whose keys are paths: ``meta`` (parameters, and of each sequence what
the user interface lists) and ``seqs`` (the values). ``aim.Run`` writes one key at a time, takes the run for
one process until it is closed, and waits for a server without limit. The tracker writes the same keys itself.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

from tracelet_otel_exporters.shared.client_errors import ClientErrors

Tree = Literal["meta", "seqs"]
Path = tuple["str | int", ...]


class Write(NamedTuple):
    """A value for a path; what was at and below the path goes."""

    tree: Tree
    path: Path
    value: Any


class Rows(NamedTuple):
    """Values for children of a path that hold one plain value each."""

    tree: Tree
    path: Path
    values: Sequence[tuple[int, Any]]


class Array(NamedTuple):
    """Marks a path as an array; its children stay."""

    tree: Tree
    path: Path


Change = Write | Rows | Array


class Props(Protocol):
    """A run's row in AIM's relational database."""

    name: Any
    experiment: Any

    @property
    def tags(self) -> list[str]:
        """The run's tags."""
        ...

    def add_tag(self, value: str) -> object:
        """Adds a tag."""
        ...

    def remove_tag(self, tag_name: str) -> object:
        """Removes a tag."""
        ...


class Store(Protocol):
    """One run. Everything but :meth:`close` is used inside ``with store.held()`` only."""

    hash: str

    @property
    def generation(self) -> int:
        """Counts how often the run was taken: while it stays the same, nobody else has written."""
        ...

    def held(self) -> contextlib.AbstractContextManager[object]:
        """Takes the run for this client; waits a few seconds for another.

        Raises:
            TransientError: another process has it, or the server is away.
        """
        ...

    def read(self, tree: Tree, path: Path) -> Any:
        """The value at a path with everything below it, or None."""
        ...

    def items(self, tree: Tree, path: Path) -> Iterator[tuple[int, Any]]:
        """The children of a path, for paths with more of them than fit into :meth:`read`'s list."""
        ...

    def values(self, tree: Tree, path: Path, keys: Sequence[int]) -> dict[int, Any]:
        """Those of the children of a path that are there."""
        ...

    def commit(self, changes: Sequence[Change]) -> None:
        """Makes changes, those to ``seqs`` before those to ``meta``."""
        ...

    def props(self) -> Props:
        """The run's row, made if there is none."""
        ...

    def index(self, *, final: bool = False) -> None:
        """Lets queries find the run as it is now; left for later where another process is indexing."""
        ...

    def is_new(self) -> bool:
        """Whether nothing has been written yet."""
        ...

    def close(self) -> None:
        """Gives the run back. Raises nothing."""
        ...


class Repository(Protocol):
    """Where runs are."""

    location: str
    files: str | None
    """URI of the folder for artifacts, or None where the repository has none."""

    def connect(self) -> None:
        """Reaches the repository, and makes one on disk."""
        ...

    def store(self, run_hash: str) -> Store:
        """The run of this hash, which need not exist."""
        ...

    def close(self) -> None:
        """Ends what is open."""
        ...


def library(name: str) -> Any:
    """A module of AIM's; half of them are compiled and have no types to check against."""
    return importlib.import_module(name)


errors: Final = ClientErrors("AIM", "aim", ("Operational", "RocksIO", "Busy", "TryAgain", "TimedOut"))
"""``with errors():`` raises what AIM and the libraries below it raise as delivery errors."""


def ordered(changes: Sequence[Change]) -> list[Change]:
    """Values first: a sequence that is listed has them."""
    return sorted(changes, key=lambda change: change.tree != "seqs")
