"""What a hook or a function of the API hands to the recorder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from opentelemetry.util.types import AnyValue

from tracelet_otel.recording.run import Run
from tracelet_otel.semconv import Kind

LoggedPoint = tuple[str, float, int, "int | None", bool, "Run | None"]
"""One point, in order: the exact tag; a Python float, NaN and infinities included; a step in the range of
int64; the wall time in nanoseconds since the epoch, None for now; whether the value was a float32, which is
delivered as the shortest decimal that reads back to it; the run that it belongs to, None for the current one.

A plain tuple: making a named one takes a tenth of what a hook may cost.
"""


class LoggedEvent(NamedTuple):
    """Anything that is not a scalar; :mod:`tracelet_otel.otlp.records` says what each kind holds."""

    kind: Kind
    tag: str = ""
    """Its exact tag, or empty."""
    step: int | None = None
    """In the range of int64."""
    payload: bytes | None = None
    """Its content, of any size."""
    mime_type: str = ""
    """Of the payload."""
    attributes: Mapping[str, AnyValue] | None = None
    """Further attributes, named in :mod:`tracelet_otel.semconv`; flat."""
    time_unix_nano: int | None = None
    """Wall time in nanoseconds since the epoch; None is now."""
    run: Run | None = None
    """The run that it belongs to; None is the current run."""


def json_event(
    kind: Kind, payload: bytes, run: Run | None = None, time_unix_nano: int | None = None
) -> LoggedEvent:
    """An event without a tag whose payload is JSON."""
    return LoggedEvent(
        kind, payload=payload, mime_type="application/json", time_unix_nano=time_unix_nano, run=run
    )
