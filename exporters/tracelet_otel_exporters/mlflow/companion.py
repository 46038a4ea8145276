"""What a resumed run has in its companion files: said once more, it would be there twice."""

from __future__ import annotations

import json
import struct
from typing import Any

from tracelet_otel.otlp.records import Point
from tracelet_otel.tracker import companion
from tracelet_otel.tracker.interface import PointAside, RecordAside
from tracelet_otel_exporters.mlflow import artifacts as mlflow_artifacts
from tracelet_otel_exporters.mlflow.connection import Connection
from tracelet_otel_exporters.mlflow.runs import OpenRun


def news(
    connection: Connection, run: OpenRun, asides: list[PointAside | RecordAside]
) -> list[PointAside | RecordAside]:
    """Those of ``asides`` that no earlier process has set aside."""
    if not asides or not run.is_resumed:
        return asides
    if run.said is None:
        run.said = _stored(connection, run)
    said = run.said
    return [one for one in asides if isinstance(one, RecordAside) or _identity(*one[:3]) not in said]


def _stored(connection: Connection, run: OpenRun) -> set[tuple[object, ...]]:
    found: set[tuple[object, ...]] = set()
    prefix = f"{companion.FOLDER}/companion-"
    for content in mlflow_artifacts.read_all(connection, run, companion.FOLDER, prefix):
        for line in content.splitlines():
            said: dict[str, Any] = json.loads(line)
            if said.get("kind") == "scalar":
                point = Point(said["step"], float(said["value"]), said["time_unix_nano"])
                found.add(_identity(said["tag"], said["rank"], point))
    return found


def _identity(tag: str, rank: int | None, point: Point) -> tuple[object, ...]:
    value = b"NaN" if point.value != point.value else struct.pack("<d", point.value)
    return tag, rank, point.step, value, point.time_unix_nano
