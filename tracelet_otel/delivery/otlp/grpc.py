"""A client of OTLP over gRPC.

Sources: OpenTelemetry protocol (OTLP) specification, section "OTLP/gRPC"; gRPC, "Status codes and their use
in gRPC" and "GRPC Core: channel arguments".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.instrumentation.utils import suppress_instrumentation

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

RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Codes after which a request may be sent again; so it may after RESOURCE_EXHAUSTED with a RetryInfo."""

_DENIED: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
_TOO_LARGE: Final = re.compile(r"larger than max|too large", re.IGNORECASE)
"""What the libraries of servers say of a message beyond their limit; Rust's does so with OUT_OF_RANGE."""
_OPTIONS: Final = [
    ("grpc.primary_user_agent", f"tracelet-otel/{VERSION}"),
    ("grpc.enable_retries", 0),  # the delivery retries
    # Left alone, a channel waits for up to two minutes before it looks again for a server that was away.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
_METHODS: Final[Mapping[Signal, str]] = {
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}


class GrpcClient(OtlpClient):
    """Sends OTLP over gRPC. Connects at the first request, and keeps the connection.

    Args:
        receivers: where each signal goes.

    Raises:
        PermanentError: a certificate or key cannot be read.
    """

    def __init__(self, receivers: Mapping[Signal, Receiver]) -> None:
        self._receivers = receivers
        self._channels: dict[object, grpc.Channel] = {}
        self._calls: dict[Signal, Callable[..., Any]] = {}
        for signal, receiver in receivers.items():
            key = (receiver.endpoint, receiver.secure, receiver.compression, *receiver.files)
            if key not in self._channels:
                with suppress_instrumentation():
                    self._channels[key] = _channel(receiver)
            # The requests are encoded already.
            self._calls[signal] = self._channels[key].unary_unary(
                _METHODS[signal],
                request_serializer=bytes,
                response_deserializer=RESPONSES[signal].FromString,
            )

    def close(self) -> None:
        """Ends the connections."""
        for channel in self._channels.values():
            channel.close()

    def _response(self, signal: Signal, data: bytes) -> Any:
        receiver = self._receivers[signal]
        try:
            with suppress_instrumentation():
                return self._calls[signal](data, timeout=receiver.timeout, metadata=receiver.headers)
        except grpc.RpcError as error:
            raise _failure(receiver.endpoint, cast("grpc.Call", error)) from error
        except ValueError as error:  # a header that gRPC does not send
            raise PermanentError(f"cannot send to {receiver.endpoint}: {error}") from error


def _channel(receiver: Receiver) -> grpc.Channel:
    compression = grpc.Compression.Gzip if receiver.compression == "gzip" else None
    if not receiver.secure:
        return grpc.insecure_channel(receiver.endpoint, _OPTIONS, compression)
    try:
        contents = [Path(name).read_bytes() if name else None for name in receiver.files]
    except OSError as error:
        raise PermanentError(f"cannot connect to {receiver.endpoint}: {error}") from error
    return grpc.secure_channel(
        receiver.endpoint, grpc.ssl_channel_credentials(*contents), _OPTIONS, compression
    )


def _failure(endpoint: str, error: grpc.Call) -> Exception:
    code, details = error.code(), " ".join((error.details() or "").split())
    text = f"{endpoint} answers {code.name}" + (f": {details}" if details else "")
    retry_after = _retry_after(error)
    exhausted = code is grpc.StatusCode.RESOURCE_EXHAUSTED
    if (exhausted and retry_after is None) or (code in RETRYABLE and _TOO_LARGE.search(details)):
        return TooLargeError(text)
    if exhausted or code in RETRYABLE:
        return TransientError(text, min(retry_after, LONGEST_PATIENCE_S) if retry_after else None)
    if code in _DENIED:
        return DeniedError(text)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return MissingError(text)
    return PermanentError(text)


def _retry_after(error: grpc.Call) -> float | None:
    """Seconds of the error's RetryInfo, 0 if it names none; None without one."""
    for key, value in error.trailing_metadata() or ():
        try:
            if key == "grpc-status-details-bin":
                for detail in Status.FromString(cast("bytes", value)).details:
                    info = RetryInfo()
                    if detail.Unpack(info):
                        return max(info.retry_delay.ToTimedelta().total_seconds(), 0.0)
            elif key == "google.rpc.retryinfo-bin":
                info = RetryInfo.FromString(cast("bytes", value))
                return max(info.retry_delay.ToTimedelta().total_seconds(), 0.0)
        except (DecodeError, ValueError, OverflowError):
            continue
    return None
