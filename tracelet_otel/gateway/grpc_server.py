"""OTLP/gRPC: the three services, on the bytes of their requests.

Source: OpenTelemetry Protocol 1.x, "OTLP/gRPC"; the messages of ``google.rpc``. A Collector tries again after
UNAVAILABLE and few other codes. So each failure here has that code, unless the request is wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, Final

import grpc
import grpc.aio
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.gateway.auth import Certificates
from tracelet_otel.gateway.budget import Budget, OverloadedError
from tracelet_otel.gateway.http_app import OVERLOAD_RETRY_S
from tracelet_otel.gateway.http_messages import MAX_BYTES
from tracelet_otel.gateway.intake import Intake, IntakeResult, Signal, otlp_response
from tracelet_otel.gateway.measurements import Requests
from tracelet_otel.settings import ConfigurationError

_OPTIONS: Final = (
    # A message that inflates to more is refused before it is inflated whole.
    ("grpc.max_receive_message_length", MAX_BYTES),
    ("grpc.so_reuseport", 0),  # else a second gateway on the same port would take half of the requests
    # Collectors keep their connections alive with pings, also while nothing is sent.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_SERVICES: Final[dict[Signal, str]] = {
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
}
_CODES: Final[dict[str, Any]] = {
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
}
_log = get_logger("tracelet_otel.gateway")


class GrpcServer:
    """The server. Make, start and stop it in one event loop.

    Args:
        intake: takes the requests.
        address: ``host:port``; port 0 is any.
        executor: threads that may wait for the disk.
        budget: bounds what is in hand at once.
        authorize: whether a call with this ``authorization`` in its metadata may send. None: all may.
        tls: None: without TLS.
        requests: measures what is answered; None without measurements.

    Raises:
        ConfigurationError: the address cannot be listened on, or a certificate is not valid.
    """

    def __init__(
        self,
        intake: Intake,
        address: str,
        *,
        executor: Executor,
        budget: Budget,
        authorize: Callable[[str], bool] | None,
        tls: Certificates | None,
        requests: Requests | None = None,
    ) -> None:
        self._intake = intake
        self._executor = executor
        self._budget = budget
        self._authorize = authorize
        self._requests = requests
        server: Any = grpc.aio.server(options=_OPTIONS)
        self.start: Callable[[], Awaitable[None]] = server.start
        self.stop: Callable[[float], Awaitable[None]] = server.stop
        """Takes no more calls and waits for those in hand, for some seconds at most."""
        for signal in _SERVICES:
            server.add_generic_rpc_handlers((self._handlers(signal),))
        try:
            if tls is None:
                self.port: int = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, _credentials(tls))
        except (RuntimeError, ValueError) as error:
            raise ConfigurationError(f"gRPC cannot listen on {address}: {error}") from error

    def _handlers(self, signal: Signal) -> Any:
        async def export(data: bytes, context: Any) -> bytes:
            began = time.monotonic()
            try:
                result = await self._take(signal, data, context)
                reply = otlp_response(signal, result).SerializeToString()
            except Exception as error:  # gRPC would make it UNKNOWN, after which a Collector drops
                _log.exception("a call failed")
                message = f"the gateway failed: {error!r}"[:500]
                result, reply = IntakeResult("unavailable", message, retry_after=OVERLOAD_RETRY_S), b""
            code = _CODES.get(result.kind, grpc.StatusCode.OK)
            if self._requests is not None:
                self._requests.called(began, method=f"{_SERVICES[signal]}/Export", code=code.name)
            if code is not grpc.StatusCode.OK:
                await _abort(context, code, result)
            return reply

        handler: Any = grpc.unary_unary_rpc_method_handler(export)  # pyright: ignore
        return grpc.method_handlers_generic_handler(_SERVICES[signal], {"Export": handler})

    async def _take(self, signal: Signal, data: bytes, context: Any) -> IntakeResult:
        if self._authorize is not None and not self._authorize(_authorization(context)):
            return IntakeResult("unauthenticated", "a bearer token is needed")
        try:
            with self._budget.admit() as take_bytes:
                take_bytes(len(data))
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._executor, self._intake.take, signal, data)
        except OverloadedError as error:
            return IntakeResult("unavailable", str(error), retry_after=OVERLOAD_RETRY_S)


def _authorization(context: Any) -> str:
    values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


async def _abort(context: Any, code: Any, result: IntakeResult) -> None:
    status = Status(code=code.value[0], message=result.message)
    trailing: list[tuple[str, bytes]] = []
    if result.kind == "unavailable":
        info = RetryInfo()
        info.retry_delay.FromNanoseconds(round(result.retry_after * 1e9))
        status.details.add().Pack(info)
        trailing.append(("google.rpc.retryinfo-bin", info.SerializeToString()))
    trailing.append(("grpc-status-details-bin", status.SerializeToString()))
    # The message travels in a header: what is in it may come from a request.
    details = result.message.encode("ascii", "backslashreplace").decode()[:1000]
    await context.abort(code, details, tuple(trailing))  # raises


def _credentials(tls: Certificates) -> Any:
    ca = tls.client_ca.read_bytes() if tls.client_ca is not None else None
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)
