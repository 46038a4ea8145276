"""The few lines that a user sees: what was captured, delivered, spooled and dropped."""

from __future__ import annotations

import logging
import shlex
import sys
from dataclasses import dataclass, field

from tracelet_otel.delivery.counts import Counts
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.secrets.redaction import redacted_text


def say(line: str) -> None:
    """Prints one line to stderr, with secrets masked. Never fails."""
    try:
        sys.stderr.write(f"tracelet-otel: {redacted_text(line)}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # it is closed, or there is no stderr
        log_once("stderr", logging.DEBUG, "stderr is closed")


@dataclass(slots=True)
class BackendReport(Counts):
    """What became of one backend's points and records: what an agent reports, and the closing line."""

    name: str = ""
    unwritten_points: int = 0
    """Of those that wait, what is in the agent's memory only: its spool cannot be written."""
    unwritten_records: int = 0
    left: bool = False
    """Whether anything is in the spool. The end of a run can be there without a record."""
    spool: str = ""
    """The folder of the spool that is left."""
    agent: int = 0
    """The process id of an agent that still delivers; 0 if there is none, or nothing is left to it."""
    agent_spool: str = ""
    waits: bool = False
    """Whether the agent still has anything to deliver, the end of a run included."""
    unusable: bool = False
    """Whether the backend cannot be used as it is set up, so that waiting for it is useless."""
    works: bool = True
    """Whether the backend takes data, as far as is known; also while its client is being imported."""
    progress: float = 0.0
    """Grows whenever the backend has taken something, and while its client is being imported."""
    error: str = ""
    """Why something is left or dropped."""
    disk_error: str = ""
    """Why something is in the agent's memory only."""
    refusals: str = ""
    """Why parts of accepted batches were refused."""
    locations: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        line = f"{self.name}: captured {amount(self.captured_points, self.captured_records) or 'nothing'}"
        dropped = amount(self.dropped_points, self.dropped_records)
        if not dropped and not self.left and not self.agent:
            line += ", delivered all"
        else:
            line += f", delivered {amount(self.delivered_points, self.delivered_records) or 'nothing'}"
            line += self._waiting()
            if self.left:
                spooled = amount(self.spooled_points, self.spooled_records)
                line += f", spooled {spooled or 'the end of the run'}"
            line += f", dropped {dropped}" if dropped else ""
        if self.error and (dropped or self.left or (self.agent and not self.works)):
            line += f": {self.error}"
        folders = ((self.spool, self.left), (self.agent_spool, self.agent and not self.works))
        for folder, holds_data in folders:
            if folder and holds_data:
                line += f"; deliver it with: tracelet-otel replay {shlex.quote(folder)} --backend {self.name}"
        if self.locations:
            more = len(self.locations) - 1
            line += f" -> {self.locations[0]}" + (f" and {more} more" if more else "")
        if self.name == "file" and self.locations:
            folder = shlex.quote(self.locations[0])
            line += f"; deliver it with: tracelet-otel replay {folder} --backend NAME"
        return line

    def _waiting(self) -> str:
        if not self.agent:
            return ""
        waiting = amount(self.waiting_points, self.waiting_records) or "the end of the run"
        if self.works:
            return f", the agent (process {self.agent}) goes on with {waiting}"
        unwritten = amount(self.unwritten_points, self.unwritten_records)
        if not unwritten:
            return f", spooled {waiting}"
        spooled = amount(
            self.waiting_points - self.unwritten_points, self.waiting_records - self.unwritten_records
        )
        text = f", spooled {spooled}" if spooled else ""
        return f"{text}, only in memory of the agent (process {self.agent}) {unwritten}"


def amount(points: int, records: int) -> str:
    """A number of points and records as a text; empty if there are none."""
    parts = [f"{points:,} point{'s' * (points != 1)}"] if points else []
    parts += [f"{records:,} record{'s' * (records != 1)}"] if records else []
    return " and ".join(parts)
