"""One request over HTTP on the agent's Unix socket, and its answer."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tracelet_otel.foundation.errors import PermanentError, TransientError

PROTOBUF: Final = "application/x-protobuf"
_LATER: Final = frozenset({421, 503})
"""The statuses after which the same request may be taken: the agent does not know the sender, or is full."""


def ask(
    path: Path, method: str, target: str, body: bytes | None, headers: Mapping[str, str], *, timeout: float
) -> bytes:
    """The answer to one request, on a connection of its own.

    Args:
        path: of the socket.
        method: of HTTP.
        target: path and query.
        body: of the request.
        headers: of the request.
        timeout: seconds for all of it, from connecting to the last byte of the answer.

    Raises:
        TransientError: no agent that knows the sender answers within the timeout; or the agent asks for the
            request again later, and ``retry_after`` says when.
        PermanentError: the agent refuses the request.
    """
    connection = _Connection(path, time.monotonic() + timeout)
    try:
        connection.request(method, target, body, dict(headers))
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(f"{path}: {str(error) or repr(error)}") from error
    finally:
        connection.close()
    if response.status < 400:
        return answer
    text = f"the agent answers {response.status}: {_message(response, answer)}"
    if response.status in _LATER:
        retry_after = response.getheader("retry-after")
        raise TransientError(text, None if retry_after is None else float(retry_after))
    raise PermanentError(text)


def _message(response: http.client.HTTPResponse, answer: bytes) -> str:
    if response.getheader("content-type") != PROTOBUF:
        return answer[:500].decode("utf-8", "replace").strip()
    from google.rpc.status_pb2 import Status  # needed after a failure only

    return Status.FromString(answer).message


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, deadline: float) -> None:
        super().__init__("localhost")
        self._path = path
        self._deadline = deadline

    def connect(self) -> None:
        """Raises OSError where no process listens."""
        self.sock = _Socket(self._deadline)
        self.sock.connect(str(self._path))


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
