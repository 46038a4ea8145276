"""A request and a response of HTTP, in an application of ASGI."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

from tracelet_otel.gateway.budget import Admission

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_GZIP: Final = 16 + zlib.MAX_WBITS


class HttpError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        message: for people.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


class DisconnectedError(Exception):
    """The client has closed the connection in the middle of its request."""


@dataclass(slots=True)
class Response:
    """The answer to a request."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict[str, str])

    async def send(self, send: Send) -> None:
        """Sends the answer."""
        headers = {
            "content-type": self.content_type,
            "content-length": str(len(self.body)),
            **self.headers,
        }
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": encoded})
        await send({"type": "http.response.body", "body": self.body})


class Request:
    """A request.

    Args:
        scope: of ASGI.
        receive: of ASGI.
        max_bytes: of the body, decompressed.
    """

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int) -> None:
        self.scope = scope
        self._receive = receive
        self._max_bytes = max_bytes
        self._headers: dict[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }

    def header(self, name: str) -> str:
        """A header's value; empty without that header."""
        return self._headers.get(name, "")

    async def body(self, admission: Admission) -> bytes:
        """The body, decompressed up to the limit.

        Raises:
            HttpError: it is too long, is not gzip, or is compressed in another way.
            OverloadedError: too much is in hand.
            DisconnectedError: the client has closed the connection.
        """
        encoding = self.header("content-encoding").strip().lower()
        if encoding not in ("", "identity", "gzip"):
            raise HttpError(415, f"content-encoding {encoding!r}: gzip or none is taken")
        length = self.header("content-length")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_long()
        parts: list[bytes] = []
        size = 0
        inflater = _Inflater() if encoding == "gzip" else None
        async for chunk in self._chunks():
            left = self._max_bytes - size
            try:
                part = inflater.feed(chunk, left + 1) if inflater is not None else chunk
            except zlib.error as error:
                raise HttpError(400, f"the body is not gzip: {error}") from error
            if len(part) > left:
                raise self._too_long()
            admission.take(len(part))
            size += len(part)
            parts.append(part)
        if inflater is not None and not inflater.is_complete:
            raise HttpError(400, "the body is not gzip: it ends too early")
        return b"".join(parts)

    async def _chunks(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            yield message.get("body", b"")
            more = message.get("more_body", False)

    def _too_long(self) -> HttpError:
        return HttpError(413, f"the body has over {self._max_bytes} bytes", {"connection": "close"})


class _Inflater:
    """Decompresses gzip of one or more members, step by step."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._has_begun = False

    @property
    def is_complete(self) -> bool:
        return self._member.eof or not self._has_begun

    def feed(self, data: bytes, most: int) -> bytes:
        """What ``data`` inflates to, but no more than ``most`` bytes.

        Raises:
            zlib.error: it is not gzip.
        """
        parts: list[bytes] = []
        while data and most > 0:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            self._has_begun = True
            part = self._member.decompress(data, most)
            parts.append(part)
            most -= len(part)
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if not part and not self._member.eof and not self._member.unconsumed_tail:
                break
        return b"".join(parts)
