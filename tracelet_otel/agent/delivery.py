"""The delivery to an agent. At its end the agent may still have work to do."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from tracelet_otel.agent.client import AgentClient
from tracelet_otel.agent.protocol import LONGEST_WAIT_S, Report
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.delivery.summary import BackendReport
from tracelet_otel.foundation.guard import log_once

HAND_OVER_S: Final = 10.0
"""How long an exit waits at least for an agent that starts and takes everything: a second or two."""
_CONTAINERS: Final = ("/.dockerenv", "/run/.containerenv")
"""Files by which Docker and Podman mark a container."""


class AgentDelivery(Delivery):
    """Hands everything to the agent. To wait for it is to wait for the agent's backends.

    ``backends`` says of each whether it gets everything. The spool is for what waits beyond
    ``max_queue_bytes``, and for the time without an agent.
    """

    def __init__(
        self, client: AgentClient, backends: Mapping[str, bool], *, max_queue_bytes: int, spool: Spool
    ) -> None:
        self.client = client
        self._backends = dict(backends)
        self._is_handed_on = False
        self._last: Report | None = None
        # It does not rest: it has little to do, and what the agent has survives the end of training.
        super().__init__("agent", client, max_queue_bytes=max_queue_bytes, spool=spool, rests=False)

    @property
    def backends(self) -> tuple[str, ...]:
        """The names of the agent's backends."""
        return tuple(self._backends)

    @property
    def is_reached(self) -> bool:
        """See :attr:`Delivery.is_reached`: whether an agent has answered."""
        return bool(self.client.agents)

    def hand_on(self) -> None:
        """See :meth:`Delivery.hand_on`: the agent delivers what it has during the next session, too."""
        self._is_handed_on = True

    def flush(self, idle_timeout: float) -> bool:
        """See :meth:`Delivery.flush`. Waits until the agent's backends have everything."""
        return super().flush(idle_timeout) and self._settled(idle_timeout, None)

    def finish_closing(
        self, idle_timeout: float, deadline: float | None = None, *, last_call: float | None = None
    ) -> bool:
        """See :meth:`Delivery.close`. After ``idle_timeout`` in all, the agent goes on with what is left.

        Where the agent would end with this process, the wait lasts as long as its backends take anything.
        """
        patience, hand_over = idle_timeout, deadline
        if deadline is None:
            # The agent may have just started, and needs everything before it can go on alone.
            patience = max(idle_timeout, HAND_OVER_S)
            if not ends_with_us():
                deadline = time.monotonic() + idle_timeout
                hand_over = time.monotonic() + patience
        done = super().finish_closing(patience, hand_over, last_call=last_call)
        done = done and self._settled(idle_timeout, deadline)
        if self._last is None:
            self._last = self.client.report()
        self.client.end()
        return done

    def lines(self) -> list[BackendReport]:
        """For the closing lines: one for each backend, as the agent reports."""
        by_name = {item.name: item for item in self._last.backends} if self._last else {}
        return [self._line(name, by_name.get(name)) for name in self.backends]

    def _settled(self, idle_timeout: float, deadline: float | None) -> bool:
        """Waits for the agent's backends. Returns whether they have everything."""
        before: list[float] | None = None
        moved = time.monotonic()
        while self.client.agents and not self._is_handed_on:
            now, end = time.monotonic(), moved + idle_timeout
            if deadline is not None:
                end = min(deadline, end)
            # The first report only says with what later progress is compared.
            wait = 0.0 if before is None else min(LONGEST_WAIT_S, max(0.0, end - now))
            report = self.client.report(wait)
            if report is None:
                return False
            self._last = report
            if report.warning:
                log_once("agent", logging.WARNING, "%s", report.warning)
            if not report.waits:
                return True
            if all(item.unusable for item in report.backends if item.waits):
                return False
            progress = [item.progress for item in report.backends]
            if before is not None and progress != before:
                moved = time.monotonic()
            before = progress
            if time.monotonic() >= end and (deadline is not None or moved < now):
                return False
        return True

    def _line(self, name: str, found: BackendReport | None) -> BackendReport:
        mine = self.counts
        spool = str(self.spool.folder) if self.spool else ""
        if found is None:  # no agent answers: all is in our spool, in that of the last agent, or dropped
            return BackendReport(
                name=name,
                captured_points=mine.captured_points,
                captured_records=mine.captured_records,
                spooled_points=mine.spooled_points + mine.delivered_points,
                spooled_records=mine.spooled_records + mine.delivered_records,
                left=bool(self.spool) or bool(self.client.agents),
                spool=spool or str(self.client.spools / name),
                error=self.last_error or "the agent has ended",
            )
        line = replace(found, error=found.error or found.refusals)
        # What the agent has not got is missing at each of its backends.
        missing_points = mine.captured_points - mine.delivered_points
        missing_records = mine.captured_records - mine.delivered_records
        line.captured_points += missing_points
        line.captured_records += missing_records
        if len(self.client.agents) > 1 and self._backends[name]:
            # This agent does not know what earlier agents took, and they delivered all of that.
            line.captured_points, line.captured_records = mine.captured_points, mine.captured_records
            line.delivered_points += mine.delivered_points - found.captured_points
            line.delivered_records += mine.delivered_records - found.captured_records
        if missing_points or missing_records:
            line.error = self.last_error or line.error
            line.spooled_points, line.spooled_records = mine.spooled_points, mine.spooled_records
            line.left, line.spool = bool(spool), spool
        if found.waits:
            line.agent = self._last.agent if self._last is not None else 0
            if found.unwritten_points or found.unwritten_records:
                line.error = found.disk_error
        return line


def ends_with_us() -> bool:
    """Whether an agent would end with this process, as in a container, a pod or a Slurm job.

    Their supervisors end all processes once the process that they started has ended.
    """
    variables = {"KUBERNETES_SERVICE_HOST", "SLURM_JOB_ID", "container"}
    return os.getpid() == 1 or bool(variables & {*os.environ}) or any(map(os.path.exists, _CONTAINERS))
