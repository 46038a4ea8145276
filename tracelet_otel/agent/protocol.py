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
    """When the process began, as :mod:`psutil` has it: a pid is used again."""
    ends_runs: bool
    """Whether its end is the end of the runs that it wrote."""
    patience: float
    """Seconds without progress after which the agent gives a backend up, once all sources are gone."""


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
