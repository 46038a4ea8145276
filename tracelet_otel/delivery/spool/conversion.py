"""Spools of the version before, which were OTLP JSON lines: made into segments where a process goes on."""

from __future__ import annotations

from pathlib import Path

from tracelet_otel.delivery.spool.frame import Entry, head_of
from tracelet_otel.delivery.spool.json_lines import SIGNALS, path_of, read_lines
from tracelet_otel.delivery.spool.media import names_of
from tracelet_otel.delivery.spool.segment import Place, Segment


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
                    lines = read_lines(paths[signal], start, locates=False) if paths[signal].exists() else ()
                    for batch, _ in lines:
                        if batch is not None and batch.size:
                            data = batch.request
                            entry = Entry.of(batch, names_of(data) if signal == "logs" else ())
                            size += file.write(head_of(entry, data, size) + data)
            draft.replace(segment.path)
        for path in paths.values():
            path.unlink(missing_ok=True)
