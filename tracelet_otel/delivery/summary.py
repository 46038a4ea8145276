"""The few lines that a user sees: what was captured, delivered, spooled and dropped."""

from __future__ import annotations

import logging
import shlex
import sys
from dataclasses import dataclass, field

from tracelet_otel.foundation.guard import log_once
from tracelet_otel.secrets.redaction import redacted_text


def say(line: str) -> None:
    """Prints one line to stderr, secrets masked, and never fails doing so."""
    try:
        sys.stderr.write(f"tracelet-otel: {redacted_text(line)}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # closed, or there is none
        log_once("stderr", logging.DEBUG, "stderr is closed")


@dataclass(slots=True)
class Line:
    """What became of one backend's points and records, at the end."""

    name: str
    captured_points: int = 0
    captured_records: int = 0
    delivered_points: int = 0
    delivered_records: int = 0
    spooled_points: int = 0
    spooled_records: int = 0
    left: bool = False
    """Whether anything is in the spool; the end of a run alone counts as no record."""
    spool: str = ""
    """The spool's folder."""
    waiting_points: int = 0
    """What the agent still has to deliver."""
    waiting_records: int = 0
    unwritten_points: int = 0
    """Of these, what is in the agent's memory alone."""
    unwritten_records: int = 0
    agent: int = 0
    """The process id of an agent that goes on; 0: there is none, or nothing is left to it."""
    works: bool = True
    """Whether the agent's backend takes data."""
    agent_spool: str = ""
    error: str = ""
    """Why something is left or dropped."""
    locations: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        line = f"{self.name}: captured {amount(self.captured_points, self.captured_records) or 'nothing'}"
        dropped = amount(
            self.captured_points - self.delivered_points - self.spooled_points - self.waiting_points,
            self.captured_records - self.delivered_records - self.spooled_records - self.waiting_records,
        )
        if not dropped and not self.left and not self.agent:
            line += ", delivered all"
        else:
            line += f", delivered {amount(self.delivered_points, self.delivered_records) or 'nothing'}"
            line += self._waiting()
            if self.left:
                line += (
                    f", spooled {amount(self.spooled_points, self.spooled_records) or 'the end of the run'}"
                )
            line += f", dropped {dropped}" if dropped else ""
        if self.error and (dropped or self.left or (self.agent and not self.works)):
            line += f": {self.error}"
        for folder in (self.spool if self.left else "", self.agent_spool if self._is_spooled else ""):
            if folder:
                line += f"; deliver it with: tracelet-otel replay {shlex.quote(folder)} --backend {self.name}"
        if self.locations:
            more = len(self.locations) - 1
            line += f" -> {self.locations[0]}" + (f" and {more} more" if more else "")
        if self.name == "file" and self.locations:
            folder = shlex.quote(self.locations[0])
            line += f"; deliver it with: tracelet-otel replay {folder} --backend NAME"
        return line

    @property
    def _is_spooled(self) -> bool:
        return bool(self.agent) and not self.works

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
        return (
            f", spooled {spooled}" if spooled else ""
        ) + f", only in memory of the agent (process {self.agent}) {unwritten}"


def amount(points: int, records: int) -> str:
    """A number of points and records, in words; empty for none."""
    parts: list[str] = []
    if points:
        parts.append(f"{points:,} point{'s' * (points != 1)}")
    if records:
        parts.append(f"{records:,} record{'s' * (records != 1)}")
    return " and ".join(parts)
