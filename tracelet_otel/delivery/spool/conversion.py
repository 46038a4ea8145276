"""Spools of the version before, which were OTLP JSON lines: made into segments where a process goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tracelet_otel.delivery.spool.frame import Entry, head_of
from tracelet_otel.delivery.spool.json_lines import SIGNALS, batch_of, path_of
from tracelet_otel.delivery.spool.media import names_of
from tracelet_otel.delivery.spool.segment import Place, Segment
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.json import parse_line


def convert(folder: Path, place: Place) -> None:
    """Replaces each pair of files by a segment of their number; a process that is killed goes on with it.

    Args:
        folder: of the spool.
        place: how far it is delivered.

    Raises:
        OSError: a file cannot be read or written.
    """
    for number in sorted({int(path.name.split(".")[0]) for path in folder.glob("[0-9]*.*.jsonl")}):
        segment = Segment(folder, number)
        paths = {signal: path_of(folder, number, signal) for signal in SIGNALS}
        if number >= place.number:
            draft = segment.path.with_suffix(".new")
            size = 0
            with draft.open("wb") as file:
                for signal, done in zip(SIGNALS, place.lines, strict=True):
                    start = done if number == place.number else 0
                    for entry, data in _requests(paths[signal], start):
                        frame = head_of(entry, data, size) + data
                        size += file.write(frame)
            draft.replace(segment.path)
        for path in paths.values():
            path.unlink(missing_ok=True)


def _requests(path: Path, start: int) -> Iterator[tuple[Entry, bytes]]:
    """The requests of a file; a line that cannot be read is logged and left out, a torn last one too."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(max(0, start - 1))
        file.readline()  # the end of the line before, or of a line that the position does not fit
        if not start:
            file.seek(0)
        for line in file:
            try:
                request = parse_line(line if line.endswith(b"\n") else b"torn")
            except ValueError as error:
                log_once(f"bad {path}", logging.WARNING, "%s: a line is skipped: %s", path, error)
                continue
            if request is not None:
                names = names_of(request) if isinstance(request, ExportLogsServiceRequest) else ()
                yield Entry.of(batch_of(request), names), request.SerializeToString()
