"""Reads exemplars by the thousand: those of our own, which differ only in their numbers.

Asking a parsed message for each field of each exemplar takes most of the time that a point takes on its way
to a tracker. An encoded exemplar of ours has one of few layouts, though: time, value, perhaps the ids of the
span, and one attribute, the step. Those that follow each other and have the same one are read as one table,
after every byte of it that is not part of a number was compared; all others are read through the messages.

Source of the layout: opentelemetry-proto 1.x, ``metrics.proto``; Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple, cast

from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

from tracelet_otel import semconv
from tracelet_otel.otlp.records import Point

_new: Callable[[type[Point], tuple[int, float, int]], Point] = cast("Any", tuple).__new__
"""Makes what ``Point(*row)`` makes, in half the time."""
_FIXED: Final = (0x11, 0x19, 0x21)
"""Tags of a data point's fields before its exemplars: times and a value, eight bytes each."""
_EXEMPLAR: Final = 0x2A
_IDS: Final = b"\x22\x08" + bytes(8) + b"\x2a\x10" + bytes(16)
_MOST_STEP_BYTES: Final = 4
"""Steps up to 2**28; what is beyond, and what is negative, is rare."""
_FEWEST: Final = 8
"""Exemplars in a row that are worth a table."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How one kind of exemplar is encoded."""

    size: int
    """Bytes, with the tag and the length before it."""
    step_bytes: int
    has_ids: bool
    constants: tuple[tuple[int, bytes], ...]
    """Places and what is there in each exemplar."""
    numbers: Struct
    """The time, the value and the bytes of the step, lowest first, each with 7 bits."""
    ids: Struct
    """The ids of the span and the trace; only for a layout with ids."""


class Span(NamedTuple):
    """Exemplars that follow each other and have one layout."""

    first: int
    length: int
    layout: Layout | None
    """None if it is not a known layout."""
    data: bytes

    def points(self) -> list[Point]:
        """The point of each exemplar."""
        assert self.layout is not None
        table = self.layout.numbers.iter_unpack(self.data)
        if self.layout.step_bytes == 1:
            return [_new(Point, (a, value, time)) for time, value, a in table]
        if self.layout.step_bytes == 2:
            return [_new(Point, ((a & 127) + (b << 7), value, time)) for time, value, a, b in table]
        if self.layout.step_bytes == 3:
            return [
                _new(Point, ((a & 127) + ((b & 127) << 7) + (c << 14), value, time))
                for time, value, a, b, c in table
            ]
        return [
            _new(Point, ((a & 127) + ((b & 127) << 7) + ((c & 127) << 14) + (d << 21), value, time))
            for time, value, a, b, c, d in table
        ]

    def ids(self) -> Iterator[tuple[bytes, bytes]]:
        """The span's and the trace's id of each exemplar, of a layout with ids."""
        assert self.layout is not None
        return cast("Iterator[tuple[bytes, bytes]]", self.layout.ids.iter_unpack(self.data))


def spans(point: NumberDataPoint) -> Iterator[Span]:
    """All exemplars of a data point, in order."""
    count = len(point.exemplars)
    done = 0
    if count >= _FEWEST:
        for span in _tables(point.SerializeToString(), count):
            if span.first > done:
                yield Span(done, span.first - done, None, b"")
            yield span
            done = span.first + span.length
    if done < count:
        yield Span(done, count - done, None, b"")


def _tables(data: bytes, count: int) -> Iterator[Span]:
    """The tables in an encoded data point; it ends where they are too short to be worth it."""
    place = 0
    while place < len(data) and data[place] in _FIXED:
        place += 9
    index = poor = 0
    while index < count and place + 2 <= len(data) and data[place] == _EXEMPLAR and poor < 4:
        length = data[place + 1]
        layout = _LAYOUTS.get(length)
        found = 0 if layout is None else _alike(data, place, layout, count - index)
        if layout is not None and found >= _FEWEST:
            end = place + found * layout.size
            yield Span(index, found, layout, data[place:end])
            index, place = index + found, end
            continue
        poor += 1
        if length > 0x7F:  # two bytes of length
            length = (length & 0x7F) + (data[place + 2] << 7) + 1
        index, place = index + 1, place + 2 + length


def _alike(data: bytes, place: int, layout: Layout, most: int) -> int:
    """How many exemplars from ``place`` on have that layout."""
    size = layout.size
    count = min(most, (len(data) - place) // size)
    for offset, constant in layout.constants:
        column = data[place + offset : place + count * size : size]
        if column != constant * count:
            count = len(column) - len(column.lstrip(constant))
    step = size - layout.step_bytes
    for number in range(layout.step_bytes):
        column = data[place + step + number : place + count * size : size]
        goes_on = number < layout.step_bytes - 1  # all bytes of a number but its last have the highest bit
        if column.isascii() == goes_on or (goes_on and min(column, default=0) < 0x80):
            count = next((row for row, byte in enumerate(column) if (byte >= 0x80) != goes_on), len(column))
    return count


def _layout(step_bytes: int, has_ids: bool) -> Layout:
    name = semconv.STEP.encode()
    attribute = bytes([0x0A, len(name)]) + name + bytes([0x12, 1 + step_bytes, 0x18]) + bytes(step_bytes)
    content = b"\x11" + bytes(8) + b"\x19" + bytes(8) + (_IDS if has_ids else b"")
    content += bytes([0x3A, len(attribute)]) + attribute
    encoded = bytes([_EXEMPLAR, len(content)]) + content
    variable = {*range(3, 11), *range(12, 20), *range(len(encoded) - step_bytes, len(encoded))}
    if has_ids:
        variable |= {*range(22, 30), *range(32, 48)}
    constants = tuple((place, bytes([byte])) for place, byte in enumerate(encoded) if place not in variable)
    rest = len(encoded) - 20 - step_bytes
    return Layout(
        len(encoded),
        step_bytes,
        has_ids,
        constants,
        Struct(f"<3xQxd{rest}x{step_bytes}B"),
        Struct(f"<22x8s2x16s{len(encoded) - 48}x" if has_ids else ""),
    )


_LAYOUTS: Final = {
    layout.size - 2: layout
    for has_ids in (False, True)
    for layout in (_layout(step_bytes, has_ids) for step_bytes in range(1, _MOST_STEP_BYTES + 1))
}
"""By the length of the encoded exemplar."""
