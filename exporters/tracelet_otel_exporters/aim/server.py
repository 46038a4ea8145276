"""A connection to a remote tracking server (``aim server``), in its own protocol.

AIM's client queues what it writes, waits for the queue without limit, also at the interpreter's exit, and
loses its sending thread to an unexpected error. This one sends at once, waits a limited time for
the answer, and connects again after any failure. A resource is an object in the server's process.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
import uuid
from collections.abc import Generator, Sequence
from typing import Any, Final, cast

from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel_exporters.aim import private
from tracelet_otel_exporters.aim.changes import errors

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 20.0
"""For the answer to one request; the server writes a whole message before it answers."""
_HEARTBEAT_SECONDS: Final = 60.0
"""AIM's server forgets a client after five minutes."""


class AimServer:
    """A connection to a server, which is made anew when it broke.

    Args:
        location: ``aim://host:port``, with the server's base path if it has one.
    """

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self.generation = 0
        """Counts the connections."""
        self._address = self.location.removeprefix("aim://")
        self._client = ""
        self._repo = ""
        self._secure = False
        self._http: Any = None
        self._sockets = contextlib.ExitStack()
        self._socket: Any = None
        self._beat = 0.0

    def connect(self) -> None:
        """Reaches the server; quick where it is connected already."""
        if self._client:
            with self.calls():
                self._get(f"client/heartbeat/{self._client}/")
            return
        import requests

        with errors():
            if self._http is None:
                self._http = requests.Session()
            self._secure = False
            try:
                response = self._http.get(
                    f"http://{self._address}/status/", timeout=(CONNECT_SECONDS, CONNECT_SECONDS)
                )
                self._secure = response.url.startswith("https://")
            except requests.RequestException as plain:
                self._secure = True
                try:
                    response = self._request("GET", "status/")
                except requests.RequestException:
                    raise TransientError(f"no AIM server at {self.location}: {plain}") from plain
            if response.status_code != 200:
                raise TransientError(f"the AIM server at {self.location} answered {response.status_code}")
            client = str(uuid.uuid4())
            self._get(f"client/connect/{client}/")
            self._get(f"client/heartbeat/{client}/")
            # While a client has the server's Repo, all clients share its open containers; without, the
            # second one to open a run would find it locked.
            self._client = client
            self._repo = self.resource("Repo", {})
        self._beat = time.monotonic()
        self.generation += 1

    def close(self) -> None:
        """Says good-bye to the server, if it is there."""
        with contextlib.suppress(Exception):
            if self._client:
                self.release(self._repo)
                self._get(f"client/disconnect/{self._client}/")
        self._drop()
        if self._http is not None:
            self._http.close()
            self._http = None

    @contextlib.contextmanager
    def calls(self) -> Generator[None]:
        """Calls of ours; after a failure of the connection, the next ones connect anew."""
        try:
            with errors():
                if not self._client:
                    self.connect()
                elif time.monotonic() - self._beat > _HEARTBEAT_SECONDS:
                    self._get(f"client/heartbeat/{self._client}/")
                    self._beat = time.monotonic()
                yield
        except Exception:
            self._drop()
            raise

    def resource(self, kind: str, arguments: dict[str, Any]) -> str:
        """Makes an object in the server; returns its handle."""
        return self._post("get-resource", arguments, resource_handler="", resource_type=kind).json()[
            "handler"
        ]

    def release(self, handle: str) -> None:
        """Lets go of an object in the server, which closes what only it had open."""
        self._get(f"tracking/{self._client}/release-resource/{handle}/")

    def call(self, handle: str, method: str, *arguments: Any) -> Any:
        """Calls a method, or reads an attribute, of an object in the server."""
        return _unpacked(
            self._post("read-instruction", [*arguments], resource_handler=handle, method_name=method).content
        )

    def send(self, instructions: Sequence[tuple[str, str, Sequence[Any]]]) -> None:
        """Calls methods that answer nothing, all of them in one message."""
        if self._socket is None:
            self._socket = self._open_socket()
        self._socket.send(_packed(list(instructions)))
        answer = self._socket.recv(timeout=ANSWER_SECONDS)
        if answer != b"OK":
            raise _refusal(_unpacked(cast("bytes", answer)))

    def _open_socket(self) -> Any:
        import ssl

        from websockets.sync.client import connect

        context = None
        if self._secure:
            context = ssl.create_default_context()
            if file := os.environ.get(private.CERTIFICATES_FILE):
                context.load_verify_locations(file)
        scheme = "wss" if self._secure else "ws"
        connecting = connect(
            f"{scheme}://{self._address}/tracking/{self._client}/write-instruction/",
            max_size=None,
            ssl=context,
            open_timeout=CONNECT_SECONDS,
            close_timeout=1,
            ping_interval=None,  # the server answers none while it writes
        )
        return self._sockets.enter_context(connecting)

    def _post(self, place: str, arguments: object, **body: str) -> Any:
        body["args"] = base64.b64encode(_packed(arguments)).decode()
        return _checked(self._request("POST", f"tracking/{self._client}/{place}/", json=body))

    def _get(self, path: str) -> None:
        _checked(self._request("GET", path))

    def _request(self, method: str, path: str, **more: Any) -> Any:
        return self._http.request(
            method,
            f"{'https' if self._secure else 'http'}://{self._address}/{path}",
            timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
            verify=os.environ.get(private.CERTIFICATES_FILE) or True,
            **more,
        )

    def _drop(self) -> None:
        self._client = ""
        self._socket = None
        with contextlib.suppress(Exception):
            self._sockets.close()


def _packed(value: object) -> bytes:
    """What goes to the server, in AIM's encoding."""
    return private.PACK.get()(private.ENCODE_MESSAGE.get()(value))


def _unpacked(content: bytes) -> Any:
    return private.DECODE_MESSAGE.get()(private.UNPACK.get()(content))


def _checked(response: Any) -> Any:
    if response.status_code == 200:
        return response
    try:
        refusal = response.json()["exception"]
    except (ValueError, KeyError, TypeError):
        refusal = None
    if response.status_code == 400 and isinstance(refusal, dict):
        raise _refusal(cast("dict[str, Any]", refusal))
    kind = PermanentError if response.status_code < 500 and response.status_code != 429 else TransientError
    raise kind(f"the AIM server answered {response.status_code}")


def _refusal(described: dict[str, Any]) -> Exception:
    """The server's exception, by the kinds that matter here."""
    kind, message = described.get("class_name"), described.get("message")
    text = f"AIM server: {kind}: {message}"
    if kind == "KeyError":
        return KeyError(text)
    if kind in ("ValueError", "TypeError", "NotImplementedError", "OverflowError", "UnicodeEncodeError"):
        return PermanentError(text)
    return TransientError(text)  # a run that an aim.Run of the server's machine has, a forgotten client
