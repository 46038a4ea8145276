"""Puts payloads that are files of this machine into the events' bodies, for a receiver on another machine."""

from __future__ import annotations

from pathlib import Path

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tracelet_otel import semconv
from tracelet_otel.delivery.spool.media import local_path


def local_file(record: LogRecord) -> Path | None:
    """The file of this machine that holds a record's payload; None if its payload is elsewhere."""
    attribute = _uri(record)
    return local_path(attribute.value.string_value) if attribute is not None else None


def file_size(record: LogRecord) -> int | None:
    """Bytes of the file of this machine that holds a record's payload; None if its payload is elsewhere.

    A file that is missing counts as 0 bytes; :func:`inline` then raises.
    """
    path = local_file(record)
    try:
        return path.stat().st_size if path is not None else None
    except OSError:
        return 0


def inline(record: LogRecord) -> None:
    """Puts the payload of a record from its file into its body; its size and SHA-256 stay attributes.

    Raises:
        OSError: the file cannot be read.
    """
    path, attribute = local_file(record), _uri(record)
    assert path is not None
    assert attribute is not None
    record.body.bytes_value = path.read_bytes()
    record.attributes.remove(attribute)
    if not any(item.key == semconv.PAYLOAD_SIZE for item in record.attributes):
        item = record.attributes.add(key=semconv.PAYLOAD_SIZE)
        item.value.int_value = len(record.body.bytes_value)


def mentions_media(data: bytes) -> bool:
    """Whether an encoded request may have a record whose payload is elsewhere; cheap."""
    return semconv.PAYLOAD_URI.encode() in data


def _uri(record: LogRecord) -> KeyValue | None:
    return next((item for item in record.attributes if item.key == semconv.PAYLOAD_URI), None)
