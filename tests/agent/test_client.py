"""A request to an agent ends by its deadline, and the answer says what to do next."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from google.rpc.status_pb2 import Status

from tracelet_otel.agent.client import ask
from tracelet_otel.foundation.errors import PermanentError, TransientError

Behave = Callable[[socket.socket], None]


@contextlib.contextmanager
def agent(behave: Behave) -> Generator[Path]:
    """The path of a socket on which one connection is answered by ``behave``."""
    # Not below pytest's own folder: a socket's path is short.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder, "socket")
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as connection, contextlib.suppress(OSError):
                behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join()


def silent(connection: socket.socket) -> None:
    """Takes the request and never answers."""
    while connection.recv(65536):
        pass


def slow(connection: socket.socket) -> None:
    """Answers a byte at a time, for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    while True:
        connection.sendall(b".")
        time.sleep(0.05)


def deaf(connection: socket.socket) -> None:
    """Takes nothing; the body is larger than the socket's buffer."""
    time.sleep(0.6)


@pytest.mark.parametrize("behave", [silent, slow, deaf])
def test_a_request_ends_by_its_deadline(behave: Behave) -> None:
    with agent(behave) as path:
        began = time.monotonic()
        with pytest.raises(TransientError, match="timed out") as raised:
            ask(path, "POST", "/v1/metrics", b"x" * 10_000_000 * (behave is deaf), {}, timeout=0.3)
        assert time.monotonic() - began < 5
        assert raised.value.retry_after is None


def test_nobody_there_is_transient(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="No such file"):
        ask(tmp_path / "none", "GET", "/", None, {}, timeout=1)


@pytest.mark.parametrize(
    ("status", "headers", "error", "retry_after"),
    [
        (503, "retry-after: 5\r\n", TransientError, 5.0),
        (421, "", TransientError, None),
        (400, "", PermanentError, None),
    ],
)
def test_an_answer_says_what_to_do(
    status: int, headers: str, error: type[Exception], retry_after: float | None
) -> None:
    body = Status(message="because").SerializeToString()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/x-protobuf\r\ncontent-length: {len(body)}\r\n"

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(f"{head}{headers}\r\n".encode() + body)

    with agent(answer) as path:
        with pytest.raises(error, match=f"{status}: because") as raised:
            ask(path, "GET", "/", None, {}, timeout=20)
        assert getattr(raised.value, "retry_after", None) == retry_after
