"""What a tracker implements: a small protocol, the same for every backend.

A tracker is used by one thread at a time. It raises nothing at construction and imports its
client library in :meth:`Tracker.load`, never before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from tracelet_otel.otlp.records import Point, Record, RunInfo, Series, SystemPoint
from tracelet_otel.semconv import Status


class Problem(NamedTuple):
    """One thing that a tracker did not keep as it was logged."""

    name: str
    """Tag, parameter or file."""
    reason: str


class PointAside(NamedTuple):
    """A point that the tracker could not keep as it was logged; it goes into the run's companion file."""

    tag: str
    rank: int | None
    point: Point
    reason: str


class RecordAside(NamedTuple):
    """A record whose exact content the tracker could not keep; it goes into the run's companion file."""

    record: Record
    reason: str


@dataclass(slots=True)
class Outcome:
    """What became of one write. Raising is for failures of the whole write; this is for its parts."""

    accepted: int = 0
    """Points or records that the tracker has durably."""
    lossy: list[Problem] = field(default_factory=list[Problem])
    """Accepted, but stored with loss."""
    rejected: list[Problem] = field(default_factory=list[Problem])
    """Not stored, and never will be. One entry a point or record."""
    aside: list[PointAside | RecordAside] = field(default_factory=list["PointAside | RecordAside"])
    """For the companion file. They count as accepted: the exporter sees to it that they are kept."""

    def add(self, other: Outcome) -> None:
        """Adds another write's outcome to this one."""
        self.accepted += other.accepted
        self.lossy += other.lossy
        self.rejected += other.rejected
        self.aside += other.aside


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a tracker can keep; its contract test checks each claim against the real thing."""

    time_resolution_ns: int
    keeps_nan: bool
    keeps_infinity: bool
    keeps_repeated_step: bool
    idempotent_retry: bool


class LocalStorage(NamedTuple):
    """Where a tracker keeps runs on this machine."""

    path: Path
    """Absolute; a file or a folder, which need not exist."""
    made_by_connect: bool = True
    """Whether :meth:`Tracker.load` or :meth:`Tracker.connect` creates it. A check that must not create
    anything then ends before these calls."""


class Tracker(Protocol):
    """One tracker's client.

    A tracker may also have a method ``local_storage() -> LocalStorage | None``: where it keeps runs on this
    machine, None for a server. It creates nothing and is called before :meth:`load`. ``tracelet-otel doctor``
    then says that the place is not writable, or will be created; without it, doctor loads and connects.

    Every method but the constructor may raise
    :class:`~tracelet_otel.foundation.errors.TransientError` (the whole call may be repeated with the
    same arguments) or :class:`~tracelet_otel.foundation.errors.PermanentError` (it never will work).
    """

    name: str
    library: str
    """The import name of the client library."""
    capabilities: Capabilities

    def load(self) -> None:
        """Imports the client library, and gets ready what is on this machine; may take long, never hangs."""
        ...

    def connect(self) -> None:
        """Reaches the backend."""
        ...

    def open_run(self, run: RunInfo) -> str:
        """Finds the run by its id or creates it; called again when the run's description changes.

        Returns: where a person can look at the run (a URL), or what identifies it there.
        """
        ...

    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:
        """Writes points; ``Outcome.accepted`` counts points."""
        ...

    def write_record(self, record: Record) -> Outcome:
        """Writes one record of any kind but ``run`` and ``status``."""
        ...

    def write_system(self, run_id: str, points: Sequence[SystemPoint]) -> Outcome:
        """Writes measurements of the machine to the tracker's own place for them."""
        ...

    def write_file(self, run_id: str, name: str, path: Path) -> None:
        """Stores a file with the run, as an artifact of that name; one of the same name is replaced."""
        ...

    def close_run(self, run_id: str, status: Status) -> Outcome:
        """Writes what is left and sets the run's final status; returns when the tracker has everything."""
        ...

    def close(self) -> None:
        """Ends the client: no thread, process or connection of it is left. Runs that are open stay so."""
        ...
