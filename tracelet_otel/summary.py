"""The few lines that a user sees: what was captured, delivered, spooled and dropped."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterable

from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.guard import log_once


def say(line: str) -> None:
    """Prints one line to stderr, and never fails doing so."""
    try:
        sys.stderr.write(f"tracelet-otel: {line}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # closed, or there is none
        log_once("stderr", logging.DEBUG, "stderr is closed")


def closing_lines(deliveries: Iterable[Delivery]) -> list[str]:
    """One line a backend."""
    return [_closing_line(delivery) for delivery in deliveries]


def _closing_line(delivery: Delivery) -> str:
    counts = delivery.counts
    captured = _amount(counts.captured_points, counts.captured_records)
    line = f"{delivery.name}: captured {captured or 'nothing'}"
    dropped = _amount(counts.dropped_points, counts.dropped_records)
    spooled = _amount(counts.spooled_points, counts.spooled_records)
    left = delivery.spool is not None and bool(delivery.spool)  # a status alone counts as nothing
    if not dropped and not left:
        line += ", delivered all"
    else:
        line += f", delivered {_amount(counts.delivered_points, counts.delivered_records) or 'nothing'}"
        line += f", spooled {spooled or 'the end of the run'}" if left else ""
        line += f", dropped {dropped}" if dropped else ""
    reason = delivery.last_error or delivery.destination.refusals()
    if (dropped or left) and reason:
        line += f": {reason}"
    if left and delivery.spool is not None:
        folder = shlex.quote(str(delivery.spool.folder))
        line += f"; deliver it with: tracelet-otel replay {folder} --backend {delivery.name}"
    locations = delivery.destination.locations()
    if locations:
        line += f" -> {locations[0]}" + (f" and {len(locations) - 1} more" if len(locations) > 1 else "")
    if delivery.name == "file" and locations:
        line += f"; deliver it with: tracelet-otel replay {shlex.quote(locations[0])} --backend NAME"
    return line


def _amount(points: int, records: int) -> str:
    parts: list[str] = []
    if points:
        parts.append(f"{points:,} point{'s' * (points != 1)}")
    if records:
        parts.append(f"{records:,} record{'s' * (records != 1)}")
    return " and ".join(parts)
