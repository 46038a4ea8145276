"""OTLP/HTTP as an application of ASGI, for any server of that interface.

Source: OpenTelemetry Protocol 1.x, "OTLP/HTTP".
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Final

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from tracelet_otel.delivery.destination import SOURCE_HEADER
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.gateway.budget import Budget, OverloadedError
from tracelet_otel.gateway.http_messages import (
    DisconnectedError,
    HttpError,
    Receive,
    Request,
    Response,
    Scope,
    Send,
)
from tracelet_otel.gateway.intake import Intake
from tracelet_otel.gateway.intake_result import (
    ACCEPTED,
    IntakeResult,
    invalid,
    logs_response,
    metrics_response,
    traces_response,
    unavailable,
)
from tracelet_otel.gateway.measurements import Requests
from tracelet_otel.otlp.json import parse_line

MAX_BYTES: Final = 64 * 1024 * 1024
"""The most of one request, after decompression."""
MOST_REQUESTS: Final = 64
"""In hand at once."""
MOST_BYTES: Final = 512 * 1024 * 1024
"""In hand at once, after decompression."""
OVERLOAD_RETRY_S: Final = 1.0
PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
MISDIRECTED: Final = 421
"""The status for a sender that has to register first; RFC 9110, section 15.5.20."""

Handler = Callable[[Request], Awaitable[Response]]
Take = Callable[[bytes, str], IntakeResult]
_log = get_logger("tracelet_otel.gateway")


class App:
    """The application. Routes may be added before it is served.

    Args:
        intake: takes what comes.
        executor: threads that may wait for the disk; the event loop's if None.
        budget: of what is in hand at once; 64 requests and 512 MiB if None.
        authorize: whether a request with this ``Authorization`` header may send. None: all may.
        max_bytes: the most of one request after decompression.
        knows: whether the sender that :data:`SOURCE_HEADER` names is registered; others may not send. None:
            the header is ignored, since the counts by sender have no bound.
        is_ready: whether requests are taken at present.
        requests: measures what is answered; None without measurements.
    """

    def __init__(
        self,
        intake: Intake,
        *,
        executor: Executor | None = None,
        budget: Budget | None = None,
        authorize: Callable[[str], bool] | None = None,
        max_bytes: int = MAX_BYTES,
        knows: Callable[[str], bool] | None = None,
        is_ready: Callable[[], bool] = lambda: True,
        requests: Requests | None = None,
    ) -> None:
        self.is_ready = is_ready
        self._executor = executor
        self._budget = budget or Budget(MOST_REQUESTS, MOST_BYTES)
        self._authorize = authorize
        self._max_bytes = max_bytes
        self._knows = knows
        self._requests = requests
        self._routes: dict[tuple[str, str], Handler] = {}
        self.add_route("GET", "/healthz", self._health)
        self.add_route("GET", "/readyz", self._readiness)
        self.add_route("POST", "/v1/metrics", self._otlp(intake.metrics, metrics_response))
        self.add_route("POST", "/v1/logs", self._otlp(intake.logs, logs_response))
        self.add_route("POST", "/v1/traces", self._otlp(lambda data, _: intake.traces(data), traces_response))

    def add_route(self, method: str, path: str, handler: Handler) -> None:
        """Has ``handler`` answer a path."""
        self._routes[method, path] = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        began = time.monotonic()
        method, path = scope["method"], scope["path"]
        is_known = any(path == known for _, known in self._routes)
        try:
            response = await self._response(self._routes.get((method, path)), is_known, scope, receive)
        except DisconnectedError:
            return
        if self._requests is not None:
            self._requests.answered(
                began,
                method=method,
                scheme=scope["scheme"],
                route=path if is_known else "",
                status=response.status,
            )
        await response.send(send)

    async def _response(
        self, handler: Handler | None, is_known: bool, scope: Scope, receive: Receive
    ) -> Response:
        if handler is None:
            return Response(405 if is_known else 404, b"there is no such path or method\n")
        try:
            return await handler(Request(scope, receive, self._max_bytes))
        except DisconnectedError:
            raise
        except HttpError as error:
            return Response(error.status, f"{error.message}\n".encode(), headers=error.headers)
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            return Response(503, b"the gateway failed\n", headers={"retry-after": "5"})

    async def _health(self, request: Request) -> Response:
        return Response(body=b"ok\n")

    async def _readiness(self, request: Request) -> Response:
        return Response(body=b"ready\n") if self.is_ready() else Response(503, b"not ready\n")

    def _otlp(self, take: Take, describe: Callable[[IntakeResult], Message]) -> Handler:
        async def handle(request: Request) -> Response:
            content_type = request.header("content-type").partition(";")[0].strip().lower()
            as_json = content_type == JSON
            try:
                return _response(await self._take(request, content_type, take), describe, as_json)
            except HttpError as error:
                status = Status(code=_codes.get(error.status, 3), message=error.message)
                return _encoded(error.status, status, as_json, error.headers)

        return handle

    async def _take(self, request: Request, content_type: str, take: Take) -> IntakeResult:
        if self._authorize is not None and not self._authorize(request.header("authorization")):
            raise HttpError(401, "a bearer token is needed", {"www-authenticate": "Bearer"})
        if content_type not in (PROTOBUF, JSON):
            raise HttpError(415, f"content-type {content_type!r}: {PROTOBUF} or {JSON} is taken")
        try:
            with self._budget.admit() as admission:
                data = await request.body(admission)
                source = request.header(SOURCE_HEADER) if self._knows is not None else ""
                if self._knows is not None and not self._knows(source):
                    raise HttpError(MISDIRECTED, "the sender is not registered")
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(
                    self._executor, lambda: _taken(take, data, source, content_type == JSON)
                )
        except OverloadedError as error:
            return unavailable(str(error), OVERLOAD_RETRY_S)


_codes: Final = {400: 3, 401: 16, 413: 8, 415: 3, 503: 14}
"""The codes of gRPC in ``google.rpc.Status``, by HTTP's status."""


def _taken(take: Take, data: bytes, source: str, as_json: bool) -> IntakeResult:
    if as_json:
        try:
            parsed = parse_line(data)
        except (ValueError, RecursionError) as error:
            if data.strip() != b"{}":
                return invalid(f"not OTLP JSON: {error}"[:500])
            return ACCEPTED
        if parsed is None:  # spans
            return ACCEPTED
        data = parsed.SerializeToString()
    return take(data, source)


def _response(answer: IntakeResult, describe: Callable[[IntakeResult], Message], as_json: bool) -> Response:
    if answer.kind == "invalid":
        return _encoded(400, Status(code=3, message=answer.message), as_json, {})
    if answer.kind == "unavailable":
        headers = {"retry-after": str(max(1, round(answer.retry_after)))}
        return _encoded(503, Status(code=14, message=answer.message), as_json, headers)
    return _encoded(200, describe(answer), as_json, {})


def _encoded(status: int, message: Message, as_json: bool, headers: dict[str, str]) -> Response:
    if as_json:
        return Response(status, json.dumps(json_format.MessageToDict(message)).encode(), JSON, headers)
    return Response(status, message.SerializeToString(), PROTOBUF, headers)
