"""What an OTLP client returns and raises, over HTTP and over gRPC.

Source: OpenTelemetry protocol (OTLP) specification, sections "Partial Success", "Failures", "OTLP/gRPC
Throttling" and "OTLP/HTTP Throttling".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.otlp.json import Signal

RESPONSES: Final[Mapping[Signal, Any]] = {
    "metrics": ExportMetricsServiceResponse,
    "logs": ExportLogsServiceResponse,
}

LONGEST_PATIENCE_S: Final = 600.0
"""A receiver that asks for a longer wait is asked again after this time."""


class Answer(NamedTuple):
    """What a receiver answers to a request that it took."""

    rejected: int = 0
    """Data points or log records that it did not keep."""
    message: str = ""
    """Why it did not, or a warning if it kept everything."""


class TooLargeError(PermanentError):
    """The receiver does not take a request of this size; it may take parts of it."""


class DeniedError(PermanentError):
    """The receiver does not accept this sender: a token or certificate is missing, wrong or has expired."""


class MissingError(PermanentError):
    """There is no such service at this address."""


class OtlpClient(ABC):
    """Sends encoded requests. Used by one thread."""

    def send_metrics(self, data: bytes) -> Answer:
        """Sends an encoded ``ExportMetricsServiceRequest``.

        Raises:
            TransientError: it may be taken later; ``retry_after`` if the receiver told when.
            PermanentError: it will not be taken; a subclass of this module tells more.
        """
        partial = self._response("metrics", data).partial_success
        return Answer(partial.rejected_data_points, partial.error_message)

    def send_logs(self, data: bytes) -> Answer:
        """The same with an ``ExportLogsServiceRequest``."""
        partial = self._response("logs", data).partial_success
        return Answer(partial.rejected_log_records, partial.error_message)

    @abstractmethod
    def close(self) -> None:
        """Ends the connections."""

    @abstractmethod
    def _response(self, signal: Signal, data: bytes) -> Any:
        """Sends one request; the message of :data:`RESPONSES` that the receiver answers."""
