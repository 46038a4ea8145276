"""The messages of a training process and its agent beside OTLP: JSON over HTTP on the agent's socket.

Each request, including those of OTLP, names the training process in the header
:data:`~tracelet_otel.delivery.destination.SOURCE_HEADER`.

``POST /agent/source`` registers a :class:`TrainingProcess`. To repeat it is harmless.
``GET /agent/report?<seconds>`` answers a :class:`Report` once everything is delivered, or after the wait.
``POST /agent/end`` signs the process off. What it sent is still delivered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tracelet_otel.delivery.summary import BackendReport

SOURCE_PATH: Final = "/agent/source"
REPORT_PATH: Final = "/agent/report"
END_PATH: Final = "/agent/end"
LONGEST_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class TrainingProcess:
    """One training process."""

    pid: int
    started: float
    """When the process began, as :mod:`psutil` says: the system uses a pid again."""
    ends_runs: bool
    """Whether the end of the process is the end of the runs that it wrote."""
    patience: float
    """Seconds without progress after which the agent gives a backend up, once all processes are gone."""
    last_word: str = ""
    """File that says how the runs end if the process goes without a message; see :mod:`.last_word`."""


@dataclass(slots=True)
class Report:
    """What became of the points and records of one training process."""

    agent: int
    """The agent's process id."""
    backends: list[BackendReport] = field(default_factory=list[BackendReport])
    warning: str = ""
    """What the user should know about the agent itself."""

    @property
    def waits(self) -> bool:
        """Whether any backend still lacks something."""
        return any(backend.waits for backend in self.backends)
