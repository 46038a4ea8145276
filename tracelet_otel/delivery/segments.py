"""The files of a durable spool: two of each number, and the one that says how far they were delivered."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from tracelet_otel.delivery.otlp_json import Signal
from tracelet_otel.guard import log_once

POSITION: Final = "position"
SIGNALS: Final[tuple[Signal, Signal]] = ("logs", "metrics")
_POSITION: Final = re.compile(rb"(\d{12}) (\d{15}) (\d{15})\n")
_CHUNK: Final = 65536


@dataclass(slots=True)
class Segment:
    """The two files of one number, of which one signal each; both may be missing."""

    number: int
    paths: dict[Signal, Path]
    written: dict[Signal, int] = field(default_factory=lambda: {"logs": 0, "metrics": 0})
    read: dict[Signal, int] = field(default_factory=lambda: {"logs": 0, "metrics": 0})
    files: dict[Signal, IO[bytes]] = field(default_factory=dict["Signal", IO[bytes]])
    """Those that are appended to."""

    def unread(self) -> Signal | None:
        """The signal whose file is to be read next: records come before the points."""
        return next((signal for signal in SIGNALS if self.read[signal] < self.written[signal]), None)


def new_segment(folder: Path, number: int) -> Segment:
    """A segment without files."""
    return Segment(number, {signal: folder / f"{number:06d}.{signal}.jsonl" for signal in SIGNALS})


def adopted(folder: Path, position: Position) -> list[Segment]:
    """What an earlier process left in a folder, in order, without lines that it could not finish.

    Raises:
        OSError: the files cannot be read or cut.
    """
    number, read = position.noted()
    segments: list[Segment] = []
    for found in sorted({int(path.name.split(".")[0]) for path in folder.glob("[0-9]*.*.jsonl")}):
        segment = new_segment(folder, found)
        for signal, path in segment.paths.items():
            if path.exists():
                segment.written[signal] = cut_torn_line(path)
            if found < number:
                segment.read[signal] = segment.written[signal]
            elif found == number:
                segment.read[signal] = _line_start(path, read[signal], segment.written[signal])
        segments.append(segment)
    return segments


class Position:
    """The file that says how far the segments were delivered.

    Each note is one small write: a process that is killed leaves the file whole.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / POSITION, os.O_RDWR | os.O_CREAT, 0o600)

    def note(self, number: int, read: dict[Signal, int]) -> None:
        """Every segment below ``number`` is delivered, and of that one so many bytes."""
        os.pwrite(self._descriptor, b"%012d %015d %015d\n" % (number, read["logs"], read["metrics"]), 0)

    def noted(self) -> tuple[int, dict[Signal, int]]:
        """What was noted last; the start if that says nothing."""
        match = _POSITION.fullmatch(os.pread(self._descriptor, 100, 0))
        if match is None:
            return 0, {"logs": 0, "metrics": 0}
        return int(match[1]), {"logs": int(match[2]), "metrics": int(match[3])}

    def close(self) -> None:
        """Closes the file, once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def cut_torn_line(path: Path) -> int:
    """Removes a last line that was not written to its end; the size then."""
    size = end = path.stat().st_size
    with path.open("rb") as file:
        while end:
            start = max(0, end - _CHUNK)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                end = start + place + 1
                break
            end = start
    if end < size:
        log_once(f"torn {path}", logging.WARNING, "%s: its incomplete last line was never acknowledged", path)
        os.truncate(path, end)
    return end


def _line_start(path: Path, noted: int, size: int) -> int:
    """``noted`` if a line starts there, else the start of the file."""
    if noted == 0 or noted > size:
        return 0
    with path.open("rb") as file:
        file.seek(noted - 1)
        return noted if file.read(1) == b"\n" else 0
