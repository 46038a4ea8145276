"""A request and a response of HTTP, in an application of ASGI."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BYTES: Final = 64 * 1024 * 1024
"""The most of one request, after decompression."""


@dataclass(eq=False)
class HttpError(Exception):
    """A request that is answered with an error."""

    status: int
    message: str
    headers: dict[str, str] = field(default_factory=dict[str, str])


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
    """A request, from the two arguments that ASGI gives of it."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self._receive = receive
        self._headers: dict[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }

    def header(self, name: str) -> str:
        """A header's value; empty without that header."""
        return self._headers.get(name, "")

    async def body(self, take_bytes: Callable[[int], None]) -> bytes:
        """The body, decompressed up to :data:`MAX_BYTES`. ``take_bytes`` counts them as they come.

        Raises:
            HttpError: it is too long, is not gzip, or is compressed in another way.
            DisconnectedError: the client has closed the connection.
        """
        encoding = self.header("content-encoding").strip().lower()
        if encoding not in ("", "identity", "gzip"):
            raise HttpError(415, f"content-encoding {encoding!r}: only gzip is accepted")
        too_long = HttpError(413, f"the body has over {MAX_BYTES} bytes", {"connection": "close"})
        length = self.header("content-length")
        if length.isdigit() and int(length) > MAX_BYTES:
            raise too_long
        body = bytearray()
        inflater = _Inflater() if encoding == "gzip" else None
        async for chunk in self._chunks():
            left = MAX_BYTES - len(body)
            try:
                part = inflater.feed(chunk, left + 1) if inflater is not None else chunk
            except zlib.error as error:
                raise HttpError(400, f"the body is not gzip: {error}") from error
            if len(part) > left:
                raise too_long
            take_bytes(len(part))
            body += part
        if inflater is not None and not inflater.is_complete:
            raise HttpError(400, "the body is not gzip: it ends too early")
        return bytes(body)

    async def _chunks(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            yield message.get("body", b"")
            more = message.get("more_body", False)


class _Inflater:
    """Decompresses gzip of one or more members, step by step."""

    def __init__(self) -> None:
        self._member: Any = None

    @property
    def is_complete(self) -> bool:
        return self._member is None or self._member.eof

    def feed(self, data: bytes, most: int) -> bytearray:
        """What ``data`` inflates to, but no more than ``most`` bytes.

        Raises:
            zlib.error: it is not gzip.
        """
        inflated = bytearray()
        while data and most > len(inflated):
            if self.is_complete:
                self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
            inflated += self._member.decompress(data, most - len(inflated))
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return inflated
