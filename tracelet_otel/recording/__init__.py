"""From a logged value to OpenTelemetry: a point of a gauge, or an event."""

from __future__ import annotations

from tracelet_otel.recording.in_use import (
    before_collect,
    collection_callbacks,
    current,
    event,
    install,
    scalar,
)
from tracelet_otel.recording.logged import LoggedEvent, json_event
from tracelet_otel.recording.recorder import SCOPE_NAME, Recorder

__all__ = [
    "SCOPE_NAME",
    "LoggedEvent",
    "Recorder",
    "before_collect",
    "collection_callbacks",
    "current",
    "event",
    "install",
    "json_event",
    "scalar",
]
