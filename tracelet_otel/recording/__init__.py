"""From a logged value to OpenTelemetry: a point of a gauge, or an event."""

from __future__ import annotations

from tracelet_otel.recording.recorder import (
    SCOPE_NAME,
    Parked,
    Recorder,
    Reviving,
    Unheard,
    before_collect,
    collection_callbacks,
    event,
    install,
    recorder,
    scalar,
)

__all__ = [
    "SCOPE_NAME",
    "Parked",
    "Recorder",
    "Reviving",
    "Unheard",
    "before_collect",
    "collection_callbacks",
    "event",
    "install",
    "recorder",
    "scalar",
]
