"""Frames: what a segment of a spool consists of, and its index.

A frame is a head, an entry and an OTLP request. The head has the lengths and checksums, so that a frame which
is damaged or torn is recognised and only it is lost; it also says where in the segment it stands, so that
the next frame is found again behind a damaged one. The entry is what a start has to know of the request. An
index is a segment without the requests: kilobytes, and rebuilt from the segment whenever it does not fit.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple
from zlib import crc32

from tracelet_otel.delivery.destination import Batch, Keys
from tracelet_otel.otlp.json import Signal

MAGIC: Final = b"\xf5TOF"
_HEAD: Final = struct.Struct("<4sIIIIQ")
"""Magic, checksum of the rest of the head and of the entry, checksum of the request, bytes of the entry and
of the request, place in the segment."""
_CHECKED_FROM: Final = 8
_GUESS: Final = 512
"""Bytes that a head and its entry mostly have."""
_CHUNK: Final = 65536


@dataclass(frozen=True, slots=True)
class Entry:
    """What a start has to know of a request."""

    signal: Signal
    points: int = 0
    records: int = 0
    ends: bool = False
    source: str = ""
    run: str = ""
    keys: Keys | None = None
    """The fields so far are those of :class:`~tracelet_otel.delivery.destination.Batch`."""
    media: tuple[str, ...] = ()
    """The files in the spool's media folder that its records name."""

    @staticmethod
    def of(batch: Batch, media: tuple[str, ...] = ()) -> Entry:
        """The entry of a batch."""
        signal: Signal = "logs" if batch.metrics is None else "metrics"
        return Entry(
            signal, batch.points, batch.records, batch.ends, batch.source, batch.run, batch.keys, media
        )

    def batch(self, data: bytes) -> Batch:
        """The batch of a request with this entry."""
        return Batch(
            metrics=data if self.signal == "metrics" else None,
            logs=data if self.signal == "logs" else None,
            points=self.points,
            records=self.records,
            size=len(data),
            ends=self.ends,
            source=self.source,
            run=self.run,
            keys=self.keys,
        )

    def encoded(self) -> bytes:
        """As JSON, without what is empty."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        if self.keys is not None:
            fields["keys"] = [[key.hex(), ranges] for key, ranges in self.keys]
        some = {name: value for name, value in fields.items() if value or (name == "keys" and value == [])}
        return json.dumps(some, separators=(",", ":")).encode()

    @staticmethod
    def decoded(data: bytes) -> Entry:
        """From what :meth:`encoded` gave.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        fields: dict[str, Any] = json.loads(data)
        if "keys" in fields:
            fields["keys"] = tuple(
                (bytes.fromhex(key), tuple((start, end) for start, end in ranges))
                for key, ranges in fields["keys"]
            )
        fields["media"] = tuple(fields.get("media", ()))
        return Entry(**fields)


class Frame(NamedTuple):
    """Where a request stands in its segment."""

    entry: Entry
    start: int
    head: int
    """Bytes before the request."""
    size: int
    """Bytes of the request."""
    checksum: int
    """Of the request."""

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.start + self.head + self.size

    def request(self, file: IO[bytes]) -> bytes | None:
        """The request; None if it is damaged.

        Raises:
            OSError: it cannot be read now.
        """
        file.seek(self.start + self.head)
        data = file.read(self.size)
        return data if len(data) == self.size and crc32(data) == self.checksum else None


def head_of(entry: Entry, data: bytes, start: int) -> bytes:
    """What goes before a request at a place of a segment."""
    encoded = entry.encoded()
    head = _HEAD.pack(MAGIC, 0, crc32(data), len(encoded), len(data), start) + encoded
    return MAGIC + crc32(head[_CHECKED_FROM:]).to_bytes(4, "little") + head[_CHECKED_FROM:]


def scan(file: IO[bytes], start: int, end: int) -> Iterator[Frame]:
    """The whole frames between two places of a segment; what is damaged or torn is passed over.

    Raises:
        OSError: it cannot be read now.
    """
    while start < end:
        frame = _frame_at(file, start)
        if frame is not None and frame.end <= end:
            yield frame
            start = frame.end
        else:
            start = _next_magic(file, start + 1, end)


def indexed(index: Path, file: IO[bytes], end: int) -> list[Frame]:
    """The frames of a segment, by its index as far as that fits; the rest by reading the segment.

    Raises:
        OSError: the segment cannot be read now.
    """
    frames: list[Frame] = []
    try:
        data = index.read_bytes()
    except OSError:
        data = b""
    place = at = 0
    while (frame := _parsed(data, place)) is not None and at <= frame.start and frame.end <= end:
        frames.append(frame)
        place, at = place + frame.head, frame.end
    if frames and _frame_at(file, frames[-1].start) != frames[-1]:  # of another segment
        frames, at = [], 0
    return [*frames, *scan(file, at, end)]


def index_of(frames: Iterable[Frame], file: IO[bytes]) -> bytes:
    """The index with these frames of a segment.

    Raises:
        OSError: it cannot be read now.
    """
    parts: list[bytes] = []
    for frame in frames:
        file.seek(frame.start)
        parts.append(file.read(frame.head))
    return b"".join(parts)


def _frame_at(file: IO[bytes], start: int) -> Frame | None:
    file.seek(start)
    data = file.read(_GUESS)
    if data[:4] == MAGIC and len(data) >= _HEAD.size:
        missing = _HEAD.size + _HEAD.unpack_from(data)[3] - len(data)
        if missing > 0:
            data += file.read(missing)
    frame = _parsed(data, 0)
    return frame if frame is not None and frame.start == start else None


def _parsed(data: bytes, place: int) -> Frame | None:
    """The frame whose head and entry stand at a place of ``data``; None if there is no whole one."""
    if len(data) - place < _HEAD.size:
        return None
    magic, check, checksum, entry, size, start = _HEAD.unpack_from(data, place)
    end = place + _HEAD.size + entry
    if magic != MAGIC or len(data) < end or crc32(data[place + _CHECKED_FROM : end]) != check:
        return None
    try:
        return Frame(Entry.decoded(data[place + _HEAD.size : end]), start, _HEAD.size + entry, size, checksum)
    except (ValueError, TypeError, KeyError):
        return None


def _next_magic(file: IO[bytes], start: int, end: int) -> int:
    """Where the next frame may begin; ``end`` if none does."""
    while start < end:
        file.seek(start)
        data = file.read(min(_CHUNK, end - start))
        place = data.find(MAGIC)
        if place >= 0:
            return start + place
        if len(data) < len(MAGIC):
            break
        start += len(data) - len(MAGIC) + 1
    return end
