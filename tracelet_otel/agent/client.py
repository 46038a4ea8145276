"""The training process's end of the way to its agent."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tracelet_otel.agent import launch
from tracelet_otel.agent.address import Address
from tracelet_otel.agent.http import PROTOBUF, ask
from tracelet_otel.agent.protocol import (
    END_PATH,
    LONGEST_WAIT_S,
    REPORT_PATH,
    SOURCE_PATH,
    Report,
    TrainingProcess,
)
from tracelet_otel.delivery.destination import SOURCE_HEADER, Batch, Receipt
from tracelet_otel.foundation.errors import DeliveryError, TransientError

START_SECONDS: Final = 30.0
"""How long an agent may take to listen: a second or two, more on a cold or network disk."""
REQUEST_SECONDS: Final = 30.0
"""For one request, from connecting to the end of the answer."""
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.25
_OTLP: Final = {"content-type": PROTOBUF}


class AgentClient:
    """A destination that hands everything to the agent, which it starts where there is none.

    Nothing is imported, and no agent started, before there is something to deliver.

    Args:
        address: the agent's.
        source: this process's id for the agent.
        config: for an agent that is started.
        folder: its current folder.
        ends_runs: whether the end of this process is the end of the runs that it writes.
        spools: the agent's spools, by their backends' names.
        patience: seconds without progress after which the agent gives a backend up, once training is gone.
    """

    takes_otlp = True

    def __init__(
        self,
        address: Address,
        source: str,
        config: Mapping[str, Any],
        *,
        folder: str,
        ends_runs: bool,
        spools: Path,
        patience: float,
    ) -> None:
        self.address = address
        self.source = source
        self.spools = spools
        self.used = False
        """Whether an agent has ever answered."""
        self.agents: list[int] = []
        """The process ids of the agents, the last one's at the end."""
        self._config = config
        self._folder = folder
        self._ends_runs = ends_runs
        self._patience = patience
        self._known = False
        """Whether the agent that listens knows us."""
        self._lock = threading.Lock()

    def load(self) -> None:
        """Has nothing to import."""

    def connect(self) -> None:
        """Reaches the agent, or starts one and reaches that.

        Raises:
            TransientError: there is none after :data:`START_SECONDS`.
        """
        with self._lock:
            if self._known:
                return
            if not self._register():
                launch.launch(self.address, self._folder, self._config)
                end, pause = time.monotonic() + START_SECONDS, _FIRST_PAUSE_S
                while not self._register():
                    if time.monotonic() > end:
                        raise TransientError(f"the agent does not start; see {self.address.log}")
                    time.sleep(pause)
                    pause = min(pause * 1.5, _LONGEST_PAUSE_S)
            self._known = True

    def send(self, batch: Batch) -> Receipt:
        """Hands a batch over; the agent has it on the disk then.

        Raises:
            TransientError: the agent has ended or has no place; the next call starts another.
            PermanentError: it refuses the batch.
        """
        try:
            self.connect()
            if isinstance(batch.logs, bytes):
                self._post("POST", "/v1/logs", batch.logs, _OTLP)
            if isinstance(batch.metrics, bytes):
                self._post("POST", "/v1/metrics", batch.metrics, _OTLP)
        except TransientError as error:
            if error.retry_after is None:  # the agent has ended, or it is another one that does not know us
                self._known = False
            raise
        return Receipt(batch.points, batch.records)

    def report(self, wait: float = 0.0) -> Report | None:
        """What became of everything sent. If the agent has ended, of its successor; None if there is none.

        Args:
            wait: seconds to wait for everything to be delivered, :data:`LONGEST_WAIT_S` at most.
        """
        if not self.used:
            return None
        path = f"{REPORT_PATH}?{min(wait, LONGEST_WAIT_S):.3f}"
        for _ in range(2):
            try:
                return Report.from_json(self._ask("GET", path))
            except (ValueError, KeyError, TypeError, DeliveryError):
                self._known = False  # it has ended, or another has taken its place
            try:
                self.connect()
            except DeliveryError:
                break
        return None

    def end(self) -> None:
        """Tells the agent that nothing more comes."""
        if self.used:
            try:
                self._ask("POST", END_PATH)
            except (ValueError, DeliveryError):
                return  # it sees the end of this process

    def close(self) -> None:
        """Has no connection to end: each request has its own."""

    def locations(self) -> list[str]:
        """The agent's backends have some; see :meth:`report`."""
        return []

    def refusals(self) -> str:
        """The agent's backends have some; see :meth:`report`."""
        return ""

    def _register(self) -> bool:
        """Tells an agent that is there about this process; whether there is one."""
        import psutil

        us = TrainingProcess(os.getpid(), psutil.Process().create_time(), self._ends_runs, self._patience)
        try:
            answer = self._ask("POST", SOURCE_PATH, asdict(us))
        except (ValueError, DeliveryError):
            return False
        agent = int(answer.get("agent", 0))
        if not self.agents or self.agents[-1] != agent:
            self.agents.append(agent)
        self.used = True
        return True

    def _ask(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One question in JSON and its answer.

        Raises:
            ValueError: the answer is not JSON.
            DeliveryError: as :func:`~tracelet_otel.agent.http.ask` has it.
        """
        body = json.dumps(content).encode() if content is not None else None
        return json.loads(self._post(method, path, body, {}))

    def _post(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        headers = {SOURCE_HEADER: self.source, **headers}
        return ask(self.address.socket, method, path, body, headers, timeout=REQUEST_SECONDS)
