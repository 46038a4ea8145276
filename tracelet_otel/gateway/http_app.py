"""OTLP/HTTP as an application of ASGI, and the server of such applications.

Source: OpenTelemetry Protocol 1.x, "OTLP/HTTP".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final

import uvicorn
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
from tracelet_otel.gateway.intake import ACCEPTED, Intake, IntakeResult, Signal, otlp_response
from tracelet_otel.gateway.measurements import Requests
from tracelet_otel.otlp.json import parse_line

OVERLOAD_RETRY_S: Final = 1.0
PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
MISDIRECTED: Final = 421
"""The status for a sender that has to register first; RFC 9110, section 15.5.20."""
_SIGNALS: Final[tuple[Signal, ...]] = ("metrics", "logs", "traces")
_CODES: Final = {401: 16, 413: 8, 503: 14}
"""The codes of gRPC in ``google.rpc.Status``, by HTTP's status; 3 for any other."""
_log = get_logger("tracelet_otel.gateway")


class App:
    """The application.

    Args:
        intake: takes what comes.
        executor: threads that may wait for the disk.
        budget: of what is in hand at once.
        authorize: whether a request with this ``Authorization`` header may send. None: all may.
        knows: whether the sender that :data:`SOURCE_HEADER` names is registered; others may not send. None:
            the header is ignored, since the counts by sender have no bound.
        requests: measures what is answered; None without measurements.
    """

    def __init__(
        self,
        intake: Intake,
        *,
        executor: Executor,
        budget: Budget | None = None,
        authorize: Callable[[str], bool] | None = None,
        knows: Callable[[str], bool] | None = None,
        requests: Requests | None = None,
    ) -> None:
        self.is_ready = True
        """Whether requests are taken at present, for ``/readyz``."""
        self._intake = intake
        self._executor = executor
        self._budget = budget or Budget()
        self._authorize = authorize
        self._knows = knows
        self._requests = requests
        self._routes: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {}
        self.add_route("GET", "/healthz", self._health)
        self.add_route("GET", "/readyz", self._readiness)
        for signal in _SIGNALS:
            self.add_route("POST", f"/v1/{signal}", partial(self._otlp, signal))

    def add_route(self, method: str, path: str, handler: Callable[[Request], Awaitable[Response]]) -> None:
        """Has ``handler`` answer a path. To be called before the application is served."""
        self._routes[method, path] = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        began = time.monotonic()
        method, path = scope["method"], scope["path"]
        is_known = any(path == known for _, known in self._routes)
        try:
            if handler := self._routes.get((method, path)):
                response = await handler(Request(scope, receive))
            else:
                response = Response(405 if is_known else 404, b"there is no such path or method\n")
        except DisconnectedError:
            return
        except HttpError as error:
            response = Response(error.status, f"{error.message}\n".encode(), headers=error.headers)
        except Exception:
            _log.exception("%s %s failed", method, path)
            response = Response(503, b"the gateway failed\n", headers={"retry-after": "5"})
        if self._requests is not None:
            route = path if is_known else ""
            self._requests.answered(
                began, method=method, scheme=scope["scheme"], route=route, status=response.status
            )
        await response.send(send)

    async def _health(self, request: Request) -> Response:
        return Response(body=b"ok\n")

    async def _readiness(self, request: Request) -> Response:
        return Response(body=b"ready\n") if self.is_ready else Response(503, b"not ready\n")

    async def _otlp(self, signal: Signal, request: Request) -> Response:
        content_type = request.header("content-type").partition(";")[0].strip().lower()
        message: Message
        try:
            result = await self._take(request, content_type, signal)
            if result.kind == "invalid":
                raise HttpError(400, result.message)
            if result.kind == "unavailable":
                raise _unavailable(result.message, result.retry_after)
            status, message, headers = 200, otlp_response(signal, result), {}
        except HttpError as error:
            status, headers = error.status, error.headers
            message = Status(code=_CODES.get(status, 3), message=error.message)
        if content_type == JSON:
            return Response(status, json.dumps(json_format.MessageToDict(message)).encode(), JSON, headers)
        return Response(status, message.SerializeToString(), PROTOBUF, headers)

    async def _take(self, request: Request, content_type: str, signal: Signal) -> IntakeResult:
        if self._authorize is not None and not self._authorize(request.header("authorization")):
            raise HttpError(401, "a bearer token is needed", {"www-authenticate": "Bearer"})
        if content_type not in (PROTOBUF, JSON):
            raise HttpError(415, f"content-type {content_type!r}: {PROTOBUF} or {JSON} is taken")
        try:
            with self._budget.admit() as take_bytes:
                data = await request.body(take_bytes)
                source = request.header(SOURCE_HEADER) if self._knows is not None else ""
                if self._knows is not None and not self._knows(source):
                    raise HttpError(MISDIRECTED, "the sender is not registered")

                def take() -> IntakeResult:
                    protobuf = _from_json(data) if content_type == JSON else data
                    return ACCEPTED if protobuf is None else self._intake.take(signal, protobuf, source)

                return await asyncio.get_running_loop().run_in_executor(self._executor, take)
        except OverloadedError as error:
            raise _unavailable(str(error), OVERLOAD_RETRY_S) from error


def _unavailable(message: str, retry_after: float) -> HttpError:
    return HttpError(503, message, {"retry-after": str(max(1, round(retry_after)))})


def _from_json(data: bytes) -> bytes | None:
    """A request of OTLP JSON as protobuf. None: it is of spans, or empty."""
    try:
        parsed = parse_line(data)
    except (ValueError, RecursionError) as error:
        if data.strip() == b"{}":
            return None
        raise HttpError(400, f"not OTLP JSON: {error}"[:500]) from error
    return parsed.SerializeToString() if parsed is not None else None


class HttpServer(uvicorn.Server):
    """Serves HTTP/1.1 until ``should_exit`` is set, logs nothing, and leaves signals to its caller.

    Args:
        app: the application.
        options: more of ``uvicorn.Config``.
    """

    def __init__(self, app: App, **options: Any) -> None:
        config = uvicorn.Config(
            app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False, **options
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Captures none."""
        yield
