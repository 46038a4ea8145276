"""The log record processor between the SDK and the pipeline: an unbounded hand-over, bounded in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord

from tracelet_otel import semconv
from tracelet_otel.recording.media import MAX_INLINE_BYTES, MediaFolder
from tracelet_otel.secrets.redaction import redacted, redacted_value

WAKE_BYTES = 8 * 1024 * 1024
"""Buffered bytes at which the pipeline is woken before its interval is over."""
SPILL_BYTES = 64 * 1024 * 1024
"""Buffered bytes beyond which a large payload is written out by the thread that logs it."""


class EventBuffer(LogRecordProcessor):
    """Keeps records, in order, until the pipeline takes them. Events are never dropped here.

    Args:
        media: where payloads over 1 MiB go.
        wake: called when the pipeline should not wait for its interval.
    """

    def __init__(self, media: MediaFolder, wake: Callable[[], None]) -> None:
        self._media = media
        self._wake = wake
        self._records: deque[tuple[ReadableLogRecord, int]] = deque()
        self._bytes = 0
        self._pid = os.getpid()

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Takes one record over. A payload is kept as it is; no copy, no hash, no file on this thread."""
        if os.getpid() != self._pid:  # a forked child has no pipeline to hand over to
            return
        if not _is_ours(log_record) and not is_instrumentation_enabled():
            return  # of a library with which we are sending: it would be sent, and so make the next one
        record = ReadableLogRecord(
            log_record=log_record.log_record,
            resource=log_record.resource,  # pyright: ignore[reportArgumentType]
            instrumentation_scope=log_record.instrumentation_scope,
            limits=log_record.limits,
        )
        body = log_record.log_record.body
        size = len(body) if isinstance(body, bytes) else 0
        if size > MAX_INLINE_BYTES and self._bytes > SPILL_BYTES:
            self._spill(record)
            size = 0
        self._bytes += size
        self._records.append((record, size))
        if self._bytes > WAKE_BYTES:
            self._wake()

    def drain(self) -> list[ReadableLogRecord]:
        """Everything since the last call, in order; large payloads are in files now, secrets masked."""
        records: list[ReadableLogRecord] = []
        for _ in range(len(self._records)):
            record, size = self._records.popleft()
            self._bytes -= size
            if size > MAX_INLINE_BYTES:
                self._spill(record)
            records.append(record if _is_ours(record) else _redacted(record))
        return records

    def _spill(self, record: ReadableLogRecord) -> None:
        payload = record.log_record.body
        assert isinstance(payload, bytes)
        stored = self._media.store(payload)
        if stored is None:
            return
        attributes: Any = record.log_record.attributes
        attributes[semconv.PAYLOAD_URI], attributes[semconv.PAYLOAD_SHA256] = stored
        attributes[semconv.PAYLOAD_SIZE] = len(payload)
        record.log_record.body = None

    def shutdown(self) -> None:
        """The pipeline drains; nothing to do here."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """The pipeline flushes; nothing to do here."""
        return True


def _is_ours(record: ReadableLogRecord | ReadWriteLogRecord) -> bool:
    return (record.log_record.event_name or "").startswith(semconv.EVENT_PREFIX)


def _redacted(record: ReadableLogRecord) -> ReadableLogRecord:
    """A copy of another logger's record: messages and exceptions may hold secrets."""
    copied: Any = copy(record.log_record)
    copied.body = redacted_value("", copied.body)
    copied.attributes = redacted(copied.attributes or {})
    return replace(record, log_record=copied)
