"""What a training process and its agent say to each other beside OTLP: JSON over HTTP on the agent's socket.

Each request names its source, the training process, in the header
:data:`~tracelet_otel.delivery.destination.SOURCE_HEADER`, and so do those of OTLP.

``POST /agent/source``: a :class:`TrainingProcess` says that it is there; again is harmless.
``GET /agent/report?<seconds>``: a :class:`Report`, once everything of this source is delivered, or after the
wait.
``POST /agent/end``: the source leaves; what it sent is delivered all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

SOURCE_PATH: Final = "/agent/source"
REPORT_PATH: Final = "/agent/report"
END_PATH: Final = "/agent/end"
LONGEST_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class TrainingProcess:
    """One training process."""

    pid: int
    started: float
    """When the process began, as :mod:`psutil` has it: a pid is used again."""
    ends_runs: bool
    """Whether its end is the end of the runs that it wrote."""
    patience: float
    """Seconds without progress after which the agent gives a backend up, once all sources are gone."""


@dataclass(slots=True)
class BackendReport:
    """What became of one source's points and records at one backend."""

    name: str
    captured_points: int = 0
    captured_records: int = 0
    delivered_points: int = 0
    delivered_records: int = 0
    waiting_points: int = 0
    waiting_records: int = 0
    unwritten_points: int = 0
    """Of these, what is in the agent's memory alone: its spool cannot be written."""
    unwritten_records: int = 0
    waits: bool = False
    """Whether anything is still to be delivered, the end of a run included."""
    unusable: bool = False
    """Whether the backend cannot be used as it is set up: waiting for it is in vain."""
    works: bool = True
    """Whether the backend takes data, as far as is known; a client that is being imported counts as that."""
    progress: float = 0.0
    """Grows whenever the backend has taken something, and while its client is being imported."""
    error: str = ""
    disk_error: str = ""
    """Why something is in memory alone."""
    refusals: str = ""
    spool: str = ""
    locations: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class Report:
    """What became of one source's points and records."""

    agent: int
    """The agent's process id."""
    backends: list[BackendReport] = field(default_factory=list[BackendReport])
    warning: str = ""
    """What the user should know, whatever becomes of the data."""

    @property
    def waits(self) -> bool:
        """Whether any backend has not got everything."""
        return any(backend.waits for backend in self.backends)

    @property
    def progress(self) -> tuple[float, ...]:
        """Differs from that of an earlier report if any backend has taken something since."""
        return tuple(backend.progress for backend in self.backends)

    def to_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Report:
        """What :meth:`to_json` gave.

        Raises:
            KeyError, TypeError: it is something else.
        """
        backends = [BackendReport(**item) for item in data["backends"]]
        return Report(data["agent"], backends, data["warning"])
