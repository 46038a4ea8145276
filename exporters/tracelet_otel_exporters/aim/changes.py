"""Changes to a run in AIM, which is trees of values in a repository on disk or behind a server.

AIM keeps a run as two key-value stores whose keys are paths: ``meta`` (parameters, and of each sequence what
the user interface lists) and ``seqs`` (the values). ``aim.Run`` writes one key at a time, takes the run for
one process until it is closed, and waits for a server without limit. The tracker writes the same keys itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from tracelet_otel_exporters.aim.private import Key
from tracelet_otel_exporters.shared.client_errors import ClientErrors

Tree = Literal["meta", "seqs"]


class Write(NamedTuple):
    """A value for a path; what was at and below the path goes."""

    tree: Tree
    path: Key
    value: Any


class Rows(NamedTuple):
    """Values for children of a path that hold one plain value each."""

    tree: Tree
    path: Key
    values: Sequence[tuple[int, Any]]


class Array(NamedTuple):
    """Marks a path as an array; its children stay."""

    tree: Tree
    path: Key


Change = Write | Rows | Array


errors: Final = ClientErrors("AIM", "aim", ("Operational", "RocksIO", "Busy", "TryAgain", "TimedOut"))
"""``with errors():`` raises what AIM and the libraries below it raise as delivery errors."""
