"""The files of a durable spool: two of each number, and the one that says how far they were delivered."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool.lines import batch_of_line
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.json import Signal

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

    def open(self, signal: Signal) -> IO[bytes]:
        """Opens a signal's file, to append to.

        Raises:
            OSError: it cannot be.
        """
        file = self.paths[signal].open("ab", buffering=0)
        try:
            self.written[signal] = file.seek(0, os.SEEK_END)
        except BaseException:
            file.close()
            raise
        self.files[signal] = file
        return file

    def unread_batches(self, folder: Path) -> Iterator[Batch]:
        """What is to be read, but for lines that cannot be: of these it is told when they are to be sent.

        Args:
            folder: the spool's.

        Raises:
            OSError: a file cannot be read.
        """
        for signal, path in self.paths.items():
            if self.read[signal] >= self.written[signal]:
                continue
            with path.open("rb") as file:
                file.seek(self.read[signal])
                for line in file:
                    with contextlib.suppress(ValueError):
                        yield batch_of_line(line, folder)


@dataclass(slots=True)
class Line:
    """One line that is being delivered, or waits in memory."""

    segment: Segment | None
    """None: it is in memory alone."""
    signal: Signal
    length: int
    batch: Batch | None
    """None: it cannot be read back."""


def oldest(segments: Iterable[Segment], folder: Path) -> Line | None:
    """The first line that was not read yet, from its file.

    Raises:
        OSError: it cannot be read now.
    """
    for segment in segments:
        signal = segment.unread()
        if signal is None:
            continue
        left = segment.written[signal] - segment.read[signal]
        try:
            with segment.paths[signal].open("rb") as file:
                file.seek(segment.read[signal])
                data = file.readline()
        except FileNotFoundError:
            return Line(segment, signal, left, None)
        try:
            return Line(segment, signal, len(data) or left, batch_of_line(data, folder))
        except ValueError:
            return Line(segment, signal, len(data) or left, None)
    return None


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
