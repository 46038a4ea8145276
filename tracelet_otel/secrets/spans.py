"""Exceptions on spans: what they say may hold a secret, such as a URL with its password."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_MESSAGE, EXCEPTION_STACKTRACE
from opentelemetry.trace import Span, Status, StatusCode

from tracelet_otel.secrets.redaction import redacted, redacted_text

_EXCEPTION = "exception"
"""The name of a span's event that is one, by OpenTelemetry's conventions."""


def record_failure(span: Span, error: BaseException) -> None:
    """Puts the exception that ended a span on it, secrets masked: for spans of any provider."""
    span.set_status(Status(StatusCode.ERROR, redacted_text(f"{type(error).__name__}: {error}")))
    stacktrace = redacted_text("".join(traceback.format_exception(error)))
    attributes = {EXCEPTION_MESSAGE: redacted_text(str(error)), EXCEPTION_STACKTRACE: stacktrace}
    span.record_exception(error, attributes)


class RedactingSpanExporter(SpanExporter):
    """Masks secrets in the exceptions that OpenTelemetry puts on spans by itself. The rest is the user's.

    Args:
        exporter: gets the spans.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hands the spans on."""
        return self._exporter.export([_redacted(span) for span in spans])

    def shutdown(self) -> None:
        """Shuts the exporter down."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flushes the exporter."""
        return self._exporter.force_flush(timeout_millis)


def _redacted(span: ReadableSpan) -> ReadableSpan:
    status = span.status
    if not status.description and not any(event.name == _EXCEPTION for event in span.events):
        return span
    return ReadableSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        span.attributes,
        [_redacted_event(event) for event in span.events],
        span.links,
        span.kind,
        status=Status(status.status_code, status.description and redacted_text(status.description)),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _redacted_event(event: Event) -> Event:
    if event.name != _EXCEPTION or event.attributes is None:
        return event
    return Event(event.name, redacted(event.attributes), event.timestamp)
