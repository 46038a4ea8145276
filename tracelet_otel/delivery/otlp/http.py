"""A client of OTLP over HTTP with protobuf bodies.

Source: OpenTelemetry protocol (OTLP) specification, section "OTLP/HTTP".
"""

from __future__ import annotations

import gzip
import math
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
from google.protobuf.message import DecodeError
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsPartialSuccess

from tracelet_otel.delivery.otlp.client import (
    LONGEST_PATIENCE_S,
    RESPONSES,
    DeniedError,
    MissingError,
    OtlpClient,
    TooLargeError,
)
from tracelet_otel.delivery.otlp.settings import Receiver
from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.otlp.json import Signal
from tracelet_otel.version import VERSION

RETRYABLE: Final = frozenset({429, 502, 503, 504})
"""By the specification, a request must not be sent again after any other status of 400 and above."""
GZIP_LEVEL: Final = 1
"""For points a third of the time of zlib's default and a 25th of that of level 9, for 1 % more bytes."""

_PROTOBUF: Final = "application/x-protobuf"
_MOST_ANSWER_BYTES: Final = 1024 * 1024
_MOST_MESSAGE_LETTERS: Final = 500


class HttpClient(OtlpClient):
    """Sends OTLP over HTTP. Connects at the first request, and keeps the connection.

    Args:
        receivers: where each signal goes. A proxy is that of the environment, as for Python's own
            ``urllib``: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``.

    Raises:
        PermanentError: a certificate or key cannot be read.
    """

    def __init__(self, receivers: Mapping[Signal, Receiver]) -> None:
        self._receivers = receivers
        transports: dict[object, httpx.HTTPTransport] = {}
        self._transports: dict[Signal, httpx.HTTPTransport] = {}
        for signal, receiver in receivers.items():
            proxy = _proxy(receiver)
            key = (proxy, receiver.secure, *receiver.files)
            if key not in transports:
                transports[key] = _transport(receiver, proxy)
            self._transports[signal] = transports[key]
        self._headers = {signal: _headers(receiver) for signal, receiver in receivers.items()}

    def close(self) -> None:
        """Ends the connections."""
        for transport in self._transports.values():
            transport.close()

    def _response(self, signal: Signal, data: bytes) -> Any:
        receiver = self._receivers[signal]
        if receiver.compression == "gzip":
            data = gzip.compress(data, GZIP_LEVEL, mtime=0)
        timeout = httpx.Timeout(receiver.timeout).as_dict()
        request = httpx.Request(
            "POST",
            receiver.endpoint,
            headers=self._headers[signal],
            content=data,
            extensions={"timeout": timeout},
        )
        # To the transport, and not through a client: that logs a line for each request at level INFO.
        try:
            with suppress_instrumentation():
                response = self._transports[signal].handle_request(request)
                try:
                    body = _read(response)
                finally:
                    response.close()
        except httpx.LocalProtocolError as error:
            raise PermanentError(f"cannot send to {receiver.endpoint}: {error}") from error
        except httpx.TimeoutException as error:
            reason = f"does not answer within {receiver.timeout:g} s"
            raise TransientError(f"{receiver.endpoint} {reason}") from error
        except httpx.HTTPError as error:
            raise TransientError(f"{receiver.endpoint}: {error}") from error
        if response.is_success and not response.headers.get("content-type", "").startswith("text/html"):
            try:
                return RESPONSES[signal].FromString(body)
            except DecodeError:  # "{}" and the like: by the status it was taken
                return RESPONSES[signal]()
        raise _failure(receiver.endpoint, response, body)


def _transport(receiver: Receiver, proxy: str | None) -> httpx.HTTPTransport:
    try:
        verify: ssl.SSLContext | bool = False  # nothing to load for a connection that is not encrypted
        if receiver.secure:
            verify = (
                ssl.create_default_context(cafile=receiver.certificate)
                if receiver.certificate
                else httpx.create_ssl_context()
            )
            if receiver.client_certificate:
                verify.load_cert_chain(receiver.client_certificate, receiver.client_key)
        return httpx.HTTPTransport(verify=verify, trust_env=False, proxy=proxy)
    except (OSError, ValueError, ImportError) as error:  # ssl.SSLError is an OSError
        raise PermanentError(f"cannot connect to {receiver.endpoint}: {error}") from error


def _proxy(receiver: Receiver) -> str | None:
    parts = urlsplit(receiver.endpoint)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _headers(receiver: Receiver) -> dict[str, str]:
    headers = {
        "content-type": _PROTOBUF,
        "accept": _PROTOBUF,
        "accept-encoding": "gzip",
        "user-agent": f"tracelet-otel/{VERSION}",
        **dict(receiver.headers),
    }
    if receiver.compression == "gzip":
        headers["content-encoding"] = "gzip"
    return headers


def _read(response: httpx.Response) -> bytes:
    """The body, up to a limit."""
    body = b""
    for part in response.iter_bytes():
        body += part
        if len(body) > _MOST_ANSWER_BYTES:
            break
    return body


def _failure(endpoint: str, response: httpx.Response, body: bytes) -> Exception:
    status = response.status_code
    text = f"{endpoint} answers {status}"
    if status in HTTPStatus._value2member_map_:
        text += f" {HTTPStatus(status).phrase}"
    if response.has_redirect_location:
        text += f", a redirect to {response.headers['location']}"
    elif response.is_success:
        text += " with a web page: there is no OTLP receiver"
    elif message := _message(response, body):
        text += f": {message}"
    if status == HTTPStatus.MISDIRECTED_REQUEST:  # an agent that does not know this process yet
        return TransientError(text)
    if status in RETRYABLE:
        return TransientError(text, _retry_after(response.headers.get("retry-after", "")))
    if status == 413:
        return TooLargeError(text)
    if status in (401, 403, 407):
        return DeniedError(text)
    if status in (404, 405, 501):
        return MissingError(text)
    return PermanentError(text)


def _message(response: httpx.Response, body: bytes) -> str:
    kind = response.headers.get("content-type", "")
    if kind.startswith(_PROTOBUF):
        # A google.rpc.Status: its message has the place and type that this one's has. That saves a package.
        try:
            text = ExportMetricsPartialSuccess.FromString(body).error_message
        except DecodeError:
            return ""
    elif kind.startswith(("text/plain", "application/json")):
        text = body.decode("utf-8", "replace")
    else:
        return ""
    return " ".join(text.split())[:_MOST_MESSAGE_LETTERS]


def _retry_after(value: str) -> float | None:
    """Seconds of a ``Retry-After`` header, which has seconds or a date; None without one."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return min(seconds, LONGEST_PATIENCE_S) if math.isfinite(seconds) and seconds > 0 else None
