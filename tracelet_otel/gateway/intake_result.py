"""The result of a request, for the sender, in any protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """What became of one request."""

    kind: Literal["accepted", "partial", "invalid", "unavailable", "unauthenticated"]
    """``accepted``: all is durable. ``partial``: all except what is refused for ever. ``invalid``: all is
    refused for ever. ``unavailable``: the sender should repeat the whole request; nothing is kept twice.
    ``unauthenticated``: the sender may not send."""
    rejected: int = 0
    """Data points or records that are refused for ever."""
    message: str = ""
    retry_after: float = 0.0
    """Seconds."""


ACCEPTED = IntakeResult("accepted")


def invalid(message: str) -> IntakeResult:
    """The request will never be taken."""
    return IntakeResult("invalid", message=message)


def unavailable(message: str, retry_after: float) -> IntakeResult:
    """The request may be taken after some seconds."""
    return IntakeResult("unavailable", message=message, retry_after=retry_after)


def metrics_response(answer: IntakeResult) -> ExportMetricsServiceResponse:
    """OTLP's response to metrics that were taken, in whole or in part."""
    response = ExportMetricsServiceResponse()
    if answer.kind == "partial":
        response.partial_success.rejected_data_points = answer.rejected
        response.partial_success.error_message = answer.message
    return response


def logs_response(answer: IntakeResult) -> ExportLogsServiceResponse:
    """OTLP's response to records that were taken, in whole or in part."""
    response = ExportLogsServiceResponse()
    if answer.kind == "partial":
        response.partial_success.rejected_log_records = answer.rejected
        response.partial_success.error_message = answer.message
    return response


def traces_response(answer: IntakeResult) -> ExportTraceServiceResponse:
    """OTLP's response to spans."""
    return ExportTraceServiceResponse()
