"""What a sender is told about a request, whatever the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request."""

    kind: Literal["accepted", "partial", "invalid", "unavailable"]
    """``accepted``: all is durable. ``partial``: all but what is refused for ever. ``invalid``: nothing is,
    for ever. ``unavailable``: send the whole request again; what is kept of it already is not kept twice."""
    rejected: int = 0
    """Data points or records that are refused for ever."""
    message: str = ""
    retry_after: float = 0.0
    """Seconds."""


ACCEPTED = Answer("accepted")


def invalid(message: str) -> Answer:
    """The request never will be taken."""
    return Answer("invalid", message=message)


def unavailable(message: str, retry_after: float) -> Answer:
    """The request may be taken after some seconds."""
    return Answer("unavailable", message=message, retry_after=retry_after)
