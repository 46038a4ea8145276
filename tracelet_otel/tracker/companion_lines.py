"""The lines of a companion file: how a point or record is written, and which of them a file has.

A line is ``{"kind", "tag", "rank", "step", "time_unix_nano", "reason"}``, for a point (kind ``scalar``)
with ``value``: a number, or the text ``NaN``, ``Infinity`` or ``-Infinity``; for a record with ``mime_type``,
``attributes`` and its payload as ``text`` (UTF-8) or ``base64``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from tracelet_otel.otlp.records import Record
from tracelet_otel.semconv import nonfinite_name
from tracelet_otel.tracker.interface import PointAside, RecordAside


def encode(line: PointAside | RecordAside) -> bytes:
    """One line, with its end."""
    fields = _point(line) if isinstance(line, PointAside) else _record(line.record)
    return json.dumps({**fields, "reason": line.reason}, allow_nan=False).encode() + b"\n"


def identity(line: PointAside | RecordAside) -> int:
    """What is the same for a point or record that is set aside a second time, in this process."""
    if isinstance(line, PointAside):
        return _point_identity(line.tag, line.rank, *line.point)
    record = line.record
    return _record_identity(record.kind, record.tag, record.step, record.time_unix_nano, record.read())


def identities(files: Iterable[bytes]) -> set[int]:
    """The identities of all points and records in these files."""
    return {_identity(json.loads(line)) for content in files for line in content.splitlines()}


def _identity(line: dict[str, Any]) -> int:
    tag, step, time = line["tag"], line["step"], line["time_unix_nano"]
    if line["kind"] == "scalar":
        return _point_identity(tag, line["rank"], step, float(line["value"]), time)
    payload = line["text"].encode() if "text" in line else base64.b64decode(line["base64"])
    return _record_identity(line["kind"], tag, step, time, payload)


def _point_identity(tag: str, rank: int | None, step: int, value: float, time_unix_nano: int) -> int:
    # repr(): NaN is NaN, 0.0 is not -0.0
    return hash((tag, rank or 0, step, repr(float(value)), time_unix_nano))


def _record_identity(kind: str, tag: str, step: int, time_unix_nano: int, payload: bytes) -> int:
    return hash((kind, tag, step, time_unix_nano, hashlib.sha256(payload).digest()))


def _point(line: PointAside) -> dict[str, Any]:
    return {
        "kind": "scalar",
        "tag": line.tag,
        "rank": line.rank,
        "step": line.point.step,
        "value": _number(line.point.value),
        "time_unix_nano": line.point.time_unix_nano,
    }


def _record(record: Record) -> dict[str, Any]:
    described: dict[str, Any] = {
        "kind": record.kind,
        "tag": record.tag,
        "step": record.step,
        "time_unix_nano": record.time_unix_nano,
        "mime_type": record.mime_type,
        "attributes": {
            name: _number(value) if isinstance(value, float) else value
            for name, value in record.attributes.items()
        },
    }
    payload = record.read()
    try:
        return {**described, "text": payload.decode()}
    except UnicodeDecodeError:
        return {**described, "base64": base64.b64encode(payload).decode()}


def _number(value: float) -> float | str:
    return nonfinite_name(value) or value
