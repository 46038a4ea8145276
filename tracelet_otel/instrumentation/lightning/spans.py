"""Spans of the stages of a Lightning run, current while they are open."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, TracerProvider

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.recording.recorder import SCOPE_NAME
from tracelet_otel.secrets.spans import record_failure
from tracelet_otel.version import VERSION

_guard = Guard("a span of training")
_NO_FAILURE = ("_TunerExitException", "StopIteration")
"""Exceptions by which Lightning leaves a trial fit, and a loop."""


class OpenSpan:
    """A span that is current from its construction until :meth:`close`, in the same thread.

    Args:
        name: of the span.
        attributes: of the span.
        provider: where it comes from; None is the global one.
        end: ends it.
    """

    def __init__(
        self,
        name: str,
        attributes: Mapping[str, str | int] | None,
        provider: TracerProvider | None,
        end: Callable[[Span], None],
    ) -> None:
        self.span: Span = trace.INVALID_SPAN
        self._end = end
        self._token = None
        with _guard:
            tracer = trace.get_tracer(SCOPE_NAME, VERSION, provider)
            self.span = tracer.start_span(name, attributes=attributes)
            if self.span.get_span_context().is_valid:  # not without a TracerProvider
                self._token = otel_context.attach(trace.set_span_in_context(self.span))

    def close(self, error: BaseException | None = None) -> None:
        """Makes the span's parent current again and ends the span, with the error that was raised in it."""
        with _guard:
            if self._token is not None:
                otel_context.detach(self._token)
                self._token = None
            if error is not None and type(error).__name__ not in _NO_FAILURE:
                record_failure(self.span, error)
            self._end(self.span)
