"""Logs what a tracker refused, and what it stored with loss."""

from __future__ import annotations

import logging

from tracelet_otel.foundation.guard import log_once
from tracelet_otel.tracker.interface import Outcome


class OutcomeLog:
    """The log of one tracker's outcomes, at most once a minute for each kind of loss.

    Args:
        name: the tracker's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.last_refusal = ""
        """Name and reason of the last point or record that was refused."""

    def report(self, outcome: Outcome) -> None:
        """Logs what was refused or stored with loss."""
        if outcome.rejected:
            self.last_refusal = f"{_shortened(outcome.rejected[-1].name)}: {outcome.rejected[-1].reason}"
            log_once(
                f"{self._name} rejected",
                logging.WARNING,
                "%s refused %d of what was logged, e.g. %s: %s",
                self._name,
                len(outcome.rejected),
                _shortened(outcome.rejected[0].name),
                outcome.rejected[0].reason,
            )
        for name, reason in outcome.lossy:
            place = f"{self._name} lossy {reason[:40]}"
            log_once(place, logging.INFO, "%s: %s: %s", self._name, _shortened(name), reason)


def _shortened(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:100]}... ({len(name)} characters)"
