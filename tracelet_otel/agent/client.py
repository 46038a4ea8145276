"""How the training process reaches its agent."""

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
    """A destination that hands everything to the agent, and starts the agent if there is none.

    It does not start an agent before there is something to deliver.

    Args:
        address: of the agent.
        source: the name of this process for the agent.
        config: for an agent that is started.
        folder: the current folder of such an agent.
        ends_runs: whether the end of this process is the end of the runs that it writes.
        spools: the agent's spools, by their backends' names.
        patience: seconds without progress after which the agent gives a backend up, once training has ended.
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
        """The process ids of the agents so far, in their order."""
        self._config = config
        self._folder = folder
        self._ends_runs = ends_runs
        self._patience = patience
        self._known = False
        """Whether the agent that listens knows this process."""
        self._lock = threading.Lock()

    def load(self) -> None:
        """Has nothing to import."""

    def connect(self) -> None:
        """Reaches the agent. Starts one if there is none.

        Raises:
            TransientError: no agent answers after :data:`START_SECONDS`.
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
        """Hands a batch over. The agent has written it to the disk then.

        Raises:
            TransientError: the agent has ended or has no room. The next call starts another if needed.
            PermanentError: the agent refuses the batch.
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
        """What became of everything sent. If the agent has ended, its successor says so; None without one.

        Args:
            wait: seconds to wait until everything is delivered, :data:`LONGEST_WAIT_S` at most.
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
        """Tells the agent that this process sends nothing more."""
        if self.used:
            try:
                self._ask("POST", END_PATH)
            except (ValueError, DeliveryError):
                return  # the agent notices the end of this process

    def close(self) -> None:
        """Has no connection to end: each request has its own."""

    def locations(self) -> list[str]:
        """Nothing: those of the agent's backends are in :meth:`report`."""
        return []

    def refusals(self) -> str:
        """Nothing: those of the agent's backends are in :meth:`report`."""
        return ""

    def _register(self) -> bool:
        """Registers this process with the agent. Returns whether there is an agent."""
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
