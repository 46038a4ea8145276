"""What an OTLP client answers and raises, whichever protocol it speaks.

Source: OpenTelemetry protocol (OTLP) specification, sections "Partial Success", "Failures", "OTLP/gRPC
Throttling" and "OTLP/HTTP Throttling".
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from tracelet_otel.foundation.errors import PermanentError

LONGEST_PATIENCE_S: Final = 600.0
"""A receiver that asks for a longer wait is asked again after this one."""


class Answer(NamedTuple):
    """What a receiver says of a request that it took."""

    rejected: int = 0
    """Data points or log records that it did not keep."""
    message: str = ""
    """Why, or a warning if it kept all."""


class TooLargeError(PermanentError):
    """The receiver does not take a request of this size; parts of it, it may."""


class DeniedError(PermanentError):
    """The receiver does not accept who is asking: a token or certificate is missing, wrong or has expired."""


class MissingError(PermanentError):
    """There is no such service at this address."""


class OtlpClient(Protocol):
    """Sends encoded requests. Used by one thread."""

    def send_metrics(self, data: bytes) -> Answer:
        """Sends an encoded ``ExportMetricsServiceRequest``.

        Raises:
            TransientError: it may be taken later; ``retry_after`` if the receiver said when.
            PermanentError: it will not be taken; of a subclass here if that says more.
        """
        ...

    def send_logs(self, data: bytes) -> Answer:
        """The same with an ``ExportLogsServiceRequest``."""
        ...

    def close(self) -> None:
        """Ends the connections."""
        ...
