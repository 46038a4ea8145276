"""What the contract test needs of each tracker: how to make its client, and how to read it back.

Reading goes through the tracker's own files, database or API, never through the exporter under test.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from tracelet_otel.tracker.interface import Tracker


class StoredPoint(NamedTuple):
    """One point as the tracker has it."""

    step: int
    value: float
    time_unix_nano: int


class StoredMedia(NamedTuple):
    """Something that the tracker shows natively: an image, a sound, a text, a histogram, a plot."""

    kind: str
    tag: str
    step: int
    content: bytes
    """The file's exact bytes; for a histogram, PR curve or layout its JSON in the tracker's own form."""


class Subject(Protocol):
    """One tracker under test, with an empty backend of its own."""

    name: str

    def make(self) -> Tracker:
        """A new client of the same backend, as another process would have."""
        ...

    def points(self, run_id: str) -> dict[str, list[StoredPoint]]:
        """Every point, by the tag as it was logged (rank n > 0: ``tag/rank_n``), by step."""
        ...

    def params(self, run_id: str) -> dict[str, str]:
        """Parameters, flattened with ``/``; values as text."""
        ...

    def tags(self, run_id: str) -> dict[str, str]:
        """The run's labels as they were logged."""
        ...

    def status(self, run_id: str) -> str:
        """``running``, ``finished``, ``failed`` or ``killed``."""
        ...

    def description(self, run_id: str) -> dict[str, str]:
        """``name``, ``project`` and ``experiment`` as the tracker shows them."""
        ...

    def parent(self, run_id: str) -> str:
        """The id of the run that the tracker shows as its parent; empty for none.

        Where a tracker groups runs, the parent is checked to be in the group too, once it is there.
        """
        ...

    def media(self, run_id: str) -> list[StoredMedia]:
        """What is shown natively."""
        ...

    def files(self, run_id: str) -> dict[str, bytes]:
        """Artifacts by name, companion files among them."""
        ...

    def system(self, run_id: str) -> dict[str, list[float]]:
        """Measurements of the machine by the tracker's own names for them."""
        ...

    def close(self) -> None:
        """Ends servers and clients that the subject started."""
        ...
