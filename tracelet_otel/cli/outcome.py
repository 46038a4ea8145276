"""The result of a command: a line for each backend on stdout, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from tracelet_otel.cli.progress import size
from tracelet_otel.cli.sending import Sender
from tracelet_otel.delivery.summary import amount
from tracelet_otel.secrets.redaction import redacted_text

DONE, LEFT, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""


def report(senders: Sequence[Sender], *, interrupted: bool, again: str) -> int:
    """Prints a line for each backend; the exit code.

    Args:
        senders: all of them; one that did not stop in time may still run.
        interrupted: whether the user stopped the command.
        again: tells the user what to do about what is left.
    """
    left = False
    for sender in senders:
        typer.echo(line(sender))
        left = left or bool(sender.error) or not sender.ended.is_set()
    if left:
        typer.echo(again)
    if interrupted and left:
        return INTERRUPTED
    return LEFT if left or any(sender.refused for sender in senders) else DONE


def line(sender: Sender) -> str:
    """One line about one backend, secrets masked."""
    text = f"{sender.backend}: delivered {amount(sender.points, sender.records) or 'nothing'}"
    if sender.refused:
        refused = amount(sender.refused_points, sender.refused_records) or "a run"
        text += f"; refused {refused}: {_one_line(sender.reason)}"
    error = sender.error or ("" if sender.ended.is_set() else "still busy")
    if error:
        text += f"; stopped after {size(sender.done)} of {size(sender.total)}: {_one_line(error)}"
    locations = sender.target.locations()
    if locations:
        text += f" -> {locations[0]}" + (f" and {len(locations) - 1:,} more" if len(locations) > 1 else "")
    return redacted_text(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
