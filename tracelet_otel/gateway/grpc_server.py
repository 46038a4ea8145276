"""OTLP/gRPC: the three services, on the bytes of their requests.

Source: OpenTelemetry Protocol 1.x, "OTLP/gRPC"; the messages of ``google.rpc``. A Collector tries again after
UNAVAILABLE and few other codes. So each failure here has that code, unless the request is wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.gateway.auth import Certificates
from tracelet_otel.gateway.budget import Budget, OverloadedError
from tracelet_otel.gateway.http_app import MAX_BYTES, OVERLOAD_RETRY_S
from tracelet_otel.gateway.intake import Intake
from tracelet_otel.gateway.intake_result import (
    IntakeResult,
    logs_response,
    metrics_response,
    traces_response,
    unavailable,
)
from tracelet_otel.gateway.measurements import Requests
from tracelet_otel.settings import ConfigurationError

_PACKAGE: Final = "opentelemetry.proto.collector"
_METHOD: Final = "Export"
_OPTIONS: Final = (
    # A message that inflates to more is refused before it is inflated whole.
    ("grpc.max_receive_message_length", MAX_BYTES),
    ("grpc.so_reuseport", 0),  # else a second gateway on the same port would take half of the requests
    # Collectors keep their connections alive with pings, also while nothing is sent.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
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
        self._requests = requests
        self._executor = executor
        self._budget = budget
        self._authorize = authorize
        self._server: Any = grpc.aio.server(options=_OPTIONS)
        services: dict[str, tuple[Callable[[bytes], IntakeResult], Callable[[IntakeResult], Any]]] = {
            f"{_PACKAGE}.metrics.v1.MetricsService": (intake.metrics, metrics_response),
            f"{_PACKAGE}.logs.v1.LogsService": (intake.logs, logs_response),
            f"{_PACKAGE}.trace.v1.TraceService": (intake.traces, traces_response),
        }
        for name, (take, describe) in services.items():
            handler = self._handler(f"{name}/{_METHOD}", take, describe)
            generic: Any = grpc.method_handlers_generic_handler(name, {_METHOD: handler})
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

    def _handler(
        self, method: str, take: Callable[[bytes], IntakeResult], describe: Callable[[IntakeResult], Any]
    ) -> Any:
        async def export(data: bytes, context: Any) -> bytes:
            began = time.monotonic()
            try:
                answer = await self._take(take, data, context)
                reply = describe(answer).SerializeToString()
            except Exception as error:  # gRPC would make it UNKNOWN, after which a Collector drops
                _log.exception("a call failed")
                answer, reply = unavailable(f"the gateway failed: {error!r}"[:500], OVERLOAD_RETRY_S), b""
            code = _CODES.get(answer.kind, grpc.StatusCode.OK)
            if self._requests is not None:
                self._requests.called(began, method=method, code=code.name)
            if code is not grpc.StatusCode.OK:
                await _abort(context, code, answer)
            return reply

        return cast("Any", grpc.unary_unary_rpc_method_handler(export))

    async def _take(self, take: Callable[[bytes], IntakeResult], data: bytes, context: Any) -> IntakeResult:
        if self._authorize is not None and not self._authorize(_authorization(context)):
            return IntakeResult("unauthenticated", message="a bearer token is needed")
        try:
            with self._budget.admit() as admission:
                admission.take(len(data))
                return await asyncio.get_running_loop().run_in_executor(self._executor, take, data)
        except OverloadedError as error:
            return unavailable(str(error), OVERLOAD_RETRY_S)


def _authorization(context: Any) -> str:
    values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


async def _abort(context: Any, code: Any, answer: IntakeResult) -> NoReturn:
    status = Status(code=code.value[0], message=answer.message)
    trailing: list[tuple[str, bytes]] = []
    if answer.kind == "unavailable":
        info = RetryInfo()
        info.retry_delay.FromNanoseconds(round(answer.retry_after * 1e9))
        detail = AnyMessage()
        detail.Pack(info)
        status.details.append(detail)
        trailing.append(("google.rpc.retryinfo-bin", info.SerializeToString()))
    trailing.append(("grpc-status-details-bin", status.SerializeToString()))
    # The message travels in a header: what is in it may come from a request.
    details = answer.message.encode("ascii", "backslashreplace").decode()[:1000]
    await context.abort(code, details, tuple(trailing))
    raise AssertionError("abort() raises")


def _credentials(tls: Certificates) -> Any:
    ca = tls.client_ca.read_bytes() if tls.client_ca is not None else None
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)
