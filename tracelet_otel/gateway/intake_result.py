"""The result of a request, for the sender, in any protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

Signal = Literal["metrics", "logs", "traces"]


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """What became of one request."""

    kind: Literal["accepted", "partial", "invalid", "unavailable", "unauthenticated"]
    """``accepted``: all is durable. ``partial``: all except what is refused for ever. ``invalid``: all is
    refused for ever. ``unavailable``: the sender should repeat the whole request; nothing is kept twice.
    ``unauthenticated``: the sender may not send."""
    message: str = ""
    rejected: int = 0
    """Data points or records that are refused for ever."""
    retry_after: float = 0.0
    """Seconds."""


ACCEPTED: Final = IntakeResult("accepted")


def otlp_response(signal: Signal, result: IntakeResult) -> Any:
    """OTLP's response to what was taken, in whole or in part."""
    if signal == "traces":
        return ExportTraceServiceResponse()
    response = ExportMetricsServiceResponse() if signal == "metrics" else ExportLogsServiceResponse()
    if result.kind == "partial":
        response.partial_success.error_message = result.message
        field = "rejected_data_points" if signal == "metrics" else "rejected_log_records"
        setattr(response.partial_success, field, result.rejected)
    return response
