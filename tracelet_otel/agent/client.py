"""How the training process reaches its agent: HTTP on a Unix socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tracelet_otel.agent import last_word
from tracelet_otel.agent.address import Address, launch
from tracelet_otel.agent.protocol import (
    END_PATH,
    LONGEST_WAIT_S,
    REPORT_PATH,
    SOURCE_PATH,
    Report,
    TrainingProcess,
)
from tracelet_otel.delivery.destination import SOURCE_HEADER, Batch, Receipt
from tracelet_otel.delivery.summary import BackendReport
from tracelet_otel.foundation.errors import DeliveryError, PermanentError, TransientError
from tracelet_otel.foundation.importing import IMPORTING

START_SECONDS: Final = 30.0
"""How long an agent may take to listen: a second or two, more on a cold or network disk."""
REQUEST_SECONDS: Final = 30.0
"""For one request, from connecting to the end of the answer."""
_PROTOBUF: Final = "application/x-protobuf"


@dataclass(eq=False)
class AgentClient:
    """A destination that hands everything to the agent, and starts the agent if there is none.

    It does not start an agent before there is something to deliver.
    """

    takes_otlp = True

    address: Address
    config: Mapping[str, Any]
    """For an agent that is started."""
    folder: str
    """The current folder of such an agent."""
    ends_runs: Callable[[], bool]
    """Whether the end of this process is the end of the runs that it writes; asked once there is a value."""
    spools: Path
    """Folder of the agent's spools, which are named after their backends."""
    patience: float
    """Seconds without progress after which the agent gives a backend up, once training has ended."""
    agents: list[int] = field(default_factory=list[int])
    """The process ids of the agents that have answered, in their order."""

    def __post_init__(self) -> None:
        self._source = uuid.uuid4().hex
        self._last_word = self.address.socket.with_suffix(f".{self._source}")
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
                launch(self.address, self.folder, self.config)
                end, pause = time.monotonic() + START_SECONDS, 0.02
                while not self._register():
                    if time.monotonic() > end:
                        raise TransientError(f"the agent does not start; see {self.address.log}")
                    time.sleep(pause)
                    pause = min(pause * 1.5, 0.25)
            self._known = True

    def send(self, batch: Batch) -> Receipt:
        """Hands a batch over. The agent has written it to the disk then.

        Raises:
            TransientError: the agent has ended or has no room. The next call starts another if needed.
            PermanentError: the agent refuses the batch.
        """
        try:
            self.connect()
            for path, data in (("/v1/logs", batch.logs), ("/v1/metrics", batch.metrics)):
                if isinstance(data, bytes):
                    self._post("POST", path, data, {"content-type": _PROTOBUF})
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
        if not self.agents:
            return None
        for _ in range(2):
            try:
                answer = self._ask("GET", f"{REPORT_PATH}?{min(wait, LONGEST_WAIT_S):.3f}")
                backends = [BackendReport(**item) for item in answer.pop("backends")]
                return Report(**answer, backends=backends)
            except (ValueError, KeyError, TypeError, DeliveryError):
                self._known = False  # it has ended, or another has taken its place
            try:
                self.connect()
            except DeliveryError:
                break
        return None

    def end(self) -> None:
        """Tells the agent that this process sends nothing more."""
        if self.agents:
            with contextlib.suppress(ValueError, DeliveryError):  # the agent notices the end of this process
                self._ask("POST", END_PATH)
        last_word.withdraw(self._last_word)

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
        with IMPORTING:
            import psutil

        started = psutil.Process().create_time()
        us = TrainingProcess(
            os.getpid(), started, self.ends_runs(), self.patience, last_word=str(self._last_word)
        )
        try:
            answer = self._ask("POST", SOURCE_PATH, asdict(us))
        except (ValueError, DeliveryError):
            return False
        last_word.say_in(self._last_word)  # not before: nobody would remove the file of a process killed here
        agent = int(answer.get("agent", 0))
        if self.agents[-1:] != [agent]:
            self.agents.append(agent)
        return True

    def _ask(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        body = json.dumps(content).encode() if content is not None else None
        return json.loads(self._post(method, path, body, {}))

    def _post(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        headers = {SOURCE_HEADER: self._source, **headers}
        return ask(self.address.socket, method, path, body, headers, timeout=REQUEST_SECONDS)


def ask(
    path: Path, method: str, target: str, body: bytes | None, headers: Mapping[str, str], *, timeout: float
) -> bytes:
    """The answer of the agent at this socket to one request, on a connection of its own.

    ``timeout`` is in seconds for all of it, from connecting to the last byte of the answer.

    Raises:
        TransientError: no agent that knows the sender answers within the timeout; or the agent asks for the
            request again later, and ``retry_after`` says when.
        PermanentError: the agent refuses the request.
    """
    connection = http.client.HTTPConnection("localhost")
    try:
        connection.sock = _Socket(time.monotonic() + timeout)
        connection.sock.connect(str(path))
        connection.request(method, target, body, dict(headers))
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(f"{path}: {str(error) or repr(error)}") from error
    finally:
        connection.close()
    if response.status < 400:
        return answer
    if response.getheader("content-type") == _PROTOBUF:
        from google.rpc.status_pb2 import Status  # needed after a failure only

        message = Status.FromString(answer).message
    else:
        message = answer[:500].decode("utf-8", "replace").strip()
    text = f"the agent answers {response.status}: {message}"
    if response.status in (421, 503):  # the agent does not know the sender, or is full
        retry_after = response.getheader("retry-after")
        raise TransientError(text, None if retry_after is None else float(retry_after))
    raise PermanentError(text)


class _Socket(socket.socket):
    """A Unix socket whose calls all end by one deadline; a socket's own timeout begins again at each byte."""

    def __init__(self, deadline: float) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._deadline = deadline
        self._set_timeout()

    def sendall(self, *arguments: Any) -> None:
        """See :meth:`socket.socket.sendall`."""
        self._set_timeout()
        super().sendall(*arguments)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """See :meth:`socket.socket.recv_into`."""
        self._set_timeout()
        return super().recv_into(buffer, nbytes, flags)

    def _set_timeout(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)
