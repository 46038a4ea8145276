"""OTLP/gRPC: the three services, on the bytes of their requests.

Source: OpenTelemetry Protocol 1.x, "OTLP/gRPC"; the messages of ``google.rpc``. A Collector tries again after
UNAVAILABLE, and after little else: whatever goes wrong here is that, unless the request is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from tracelet_otel.gateway.answers import (
    Answer,
    logs_response,
    metrics_response,
    traces_response,
    unavailable,
)
from tracelet_otel.gateway.auth import Certificates
from tracelet_otel.gateway.budget import Budget, OverloadedError
from tracelet_otel.gateway.http_app import MAX_BYTES, OVERLOAD_RETRY_S
from tracelet_otel.gateway.intake import Intake
from tracelet_otel.logs import get_logger
from tracelet_otel.settings import ConfigurationError

_PACKAGE: Final = "opentelemetry.proto.collector"
_OPTIONS: Final = (
    # A message that inflates to more is refused before it is inflated whole.
    ("grpc.max_receive_message_length", MAX_BYTES),
    ("grpc.so_reuseport", 0),  # a second gateway on the same port would take half of what comes
    # Collectors keep their connections alive with pings, also while nothing is sent.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_log = get_logger("tracelet_otel.gateway")


class GrpcServer:
    """The server. To be made, started and stopped in one event loop.

    Args:
        intake: takes what comes.
        address: ``host:port``; port 0 is any.
        executor: threads that may wait for the disk.
        budget: of what is in hand at once.
        authorize: whether the ``authorization`` entry of a call's metadata lets it in. None: nobody is asked.
        tls: None: without.

    Raises:
        ConfigurationError: the address cannot be listened on, or a certificate is none.
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
    ) -> None:
        self._executor = executor
        self._budget = budget
        self._authorize = authorize
        self._server: Any = grpc.aio.server(options=_OPTIONS)
        services = {
            "metrics.v1.MetricsService": self._handler(intake.metrics, metrics_response),
            "logs.v1.LogsService": self._handler(intake.logs, logs_response),
            "trace.v1.TraceService": self._handler(intake.traces, traces_response),
        }
        for name, handler in services.items():
            generic: Any = grpc.method_handlers_generic_handler(f"{_PACKAGE}.{name}", {"Export": handler})
            self._server.add_generic_rpc_handlers((generic,))
        try:
            if tls is None:
                self.port: int = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, _credentials(tls))
        except (RuntimeError, ValueError) as error:
            raise ConfigurationError(f"gRPC cannot listen on {address}: {error}") from error

    async def start(self) -> None:
        """Takes calls from now on."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Takes no more calls and waits for those in hand, for some seconds at most."""
        await self._server.stop(grace)

    def _handler(self, take: Callable[[bytes], Answer], describe: Callable[[Answer], Any]) -> Any:
        async def export(data: bytes, context: Any) -> bytes:
            try:
                answer = await self._take(take, data, context)
                reply = describe(answer).SerializeToString()
            except Exception as error:  # gRPC would make it UNKNOWN, after which a Collector drops
                _log.exception("a call failed")
                answer, reply = unavailable(f"the gateway failed: {error!r}"[:500], OVERLOAD_RETRY_S), b""
            if answer.kind == "unauthenticated":
                await _abort(context, grpc.StatusCode.UNAUTHENTICATED, answer.message)
            if answer.kind == "invalid":
                await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, answer.message)
            if answer.kind == "unavailable":
                await _abort(context, grpc.StatusCode.UNAVAILABLE, answer.message, answer.retry_after)
            return reply

        return cast("Any", grpc.unary_unary_rpc_method_handler(export))

    async def _take(self, take: Callable[[bytes], Answer], data: bytes, context: Any) -> Answer:
        if self._authorize is not None and not self._authorize(_authorization(context)):
            return Answer("unauthenticated", message="a bearer token is needed")
        try:
            with self._budget.admit() as admission:
                admission.take(len(data))
                return await asyncio.get_running_loop().run_in_executor(self._executor, take, data)
        except OverloadedError as error:
            return unavailable(str(error), OVERLOAD_RETRY_S)


def _authorization(context: Any) -> str:
    values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


async def _abort(context: Any, code: Any, message: str, retry_after: float | None = None) -> NoReturn:
    status = Status(code=code.value[0], message=message)
    trailing: list[tuple[str, bytes]] = []
    if retry_after is not None:
        info = RetryInfo()
        info.retry_delay.FromNanoseconds(round(retry_after * 1e9))
        detail = AnyMessage()
        detail.Pack(info)
        status.details.append(detail)
        trailing.append(("google.rpc.retryinfo-bin", info.SerializeToString()))
    trailing.append(("grpc-status-details-bin", status.SerializeToString()))
    # The message travels in a header: what is in it may come from a request.
    details = message.encode("ascii", "backslashreplace").decode()[:1000]
    await context.abort(code, details, tuple(trailing))
    raise AssertionError("abort() raises")


def _credentials(tls: Certificates) -> Any:
    ca = tls.client_ca.read_bytes() if tls.client_ca is not None else None
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)
