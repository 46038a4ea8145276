"""Reads spools of any kind from outside, as far as they go: for replay, export and doctor."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool.frame import scan
from tracelet_otel.delivery.spool.json_lines import SIGNALS, read_lines, signal_of
from tracelet_otel.delivery.spool.media import located
from tracelet_otel.delivery.spool.segment import Place, Position
from tracelet_otel.otlp.json import parse_line

SEGMENT: Final = ".otlp"
"""How the name of a segment ends."""


class SpooledRequest(NamedTuple):
    """A part of a file."""

    path: Path
    size: int
    """Bytes in the file."""
    batch: Batch | None
    """None: it cannot be read. An empty one: it was delivered, or is of spans."""


def folders(path: Path) -> list[Path]:
    """Every spool at or below ``path``, oldest first."""
    return sorted({file.parent for file in path.rglob("*.*") if _order(file)})


def files(folder: Path) -> list[Path]:
    """The files of a spool in the order in which they are to be read."""
    ordered = [(order, path) for path in folder.glob("*") if (order := _order(path))]
    return [path for _, path in sorted(ordered)]


def read(folder: Path) -> Iterator[Batch]:
    """What waits in a spool, in order. A file that is being written to is read as far as it goes.

    A request that cannot be read is left out, an incomplete last one too.
    """
    for path in files(folder):
        for request in read_file(path):
            if request.batch is not None and request.batch.size:
                yield request.batch


def read_file(path: Path) -> Iterator[SpooledRequest]:
    """The requests of one file, of a spool or of the Collector's file exporter, that are not delivered.

    Raises:
        OSError: it cannot be read.
    """
    start = _start(path, Position(path.parent).noted())
    if start:
        yield SpooledRequest(path, start, Batch())
    if path.suffix == SEGMENT:
        yield from _frames(path, start)
    else:
        yield from (SpooledRequest(path, size, batch) for batch, size in read_lines(path, start))


def logs_with(path: Path, event: str) -> Iterator[ExportLogsServiceRequest]:
    """The logs requests of a file that have an event of that name; what cannot be read is left out.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix != SEGMENT:
        quoted = json.dumps(event).encode()
        with path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    request = parse_line(line) if quoted in line else None
                    if isinstance(request, ExportLogsServiceRequest):
                        yield request
        return
    encoded = bytes([len(event)]) + event.encode()
    with path.open("rb", buffering=0) as file:
        for frame in scan(file, 0, os.fstat(file.fileno()).st_size):
            data = frame.request(file) if frame.entry.signal == "logs" else None
            if data is not None and encoded in data:
                yield ExportLogsServiceRequest.FromString(data)


def _frames(path: Path, start: int) -> Iterator[SpooledRequest]:
    with path.open("rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size  # a process that goes on writing would keep us for ever
        for frame in scan(file, start, end):
            if frame.start > start:
                yield SpooledRequest(path, frame.start - start, None)
            data = frame.request(file)
            if data is not None and frame.entry.media:
                data = located(data, path.parent)
            yield SpooledRequest(
                path, frame.end - frame.start, data if data is None else frame.entry.batch(data)
            )
            start = frame.end


def _order(path: Path) -> tuple[int, int] | None:
    """A number and an order within it, of a file of a spool."""
    number = path.name.split(".")[0]
    if path.suffix == SEGMENT and number.isdigit():
        return int(number), len(SIGNALS)
    signal = signal_of(path)
    return (int(number) if number.isdigit() else 0, signal == SIGNALS[1]) if signal else None


def _start(path: Path, place: Place) -> int:
    """Where a file of a spool begins that is not delivered."""
    number = path.name.split(".")[0]
    if not number.isdigit() or int(number) > place.number:
        return 0
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    if int(number) < place.number:
        return size
    if path.suffix == SEGMENT:
        return min(size, place.offset)
    return min(size, dict(zip(SIGNALS, place.lines, strict=True)).get(signal_of(path), 0))  # type: ignore[call-overload]
