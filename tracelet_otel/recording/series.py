"""A series of points, bound: the way of every point of a tag but its first.

``Gauge.set`` copies, checks and hashes the attributes of each measurement, which takes most of its time and
comes out the same for every point of a tag. OpenTelemetry has no bound instruments, so a series is bound by
its first measurement: that carries the series in its context to the reservoir that the SDK makes for it, and
every point is appended there. What the gauge itself shows, the last value, is set once a collection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import get_current_span

POINT_KEY: Final = "tracelet-point"
"""Key of a measurement's context under which a reservoir finds ``(step, time, single)`` of a point, or the
:class:`BoundSeries` that it shall be bound to, or :data:`SHOWN`."""

SHOWN: Final = "shown"
"""The measurement is what the gauge shows, and no point."""

Measured = tuple[float, int, "int | None", bool, int, int]
"""Value, time in nanoseconds since the epoch, step (None: has none), whether the value was a float32, and the
ids of the span and the trace, 0 for none. Numbers only: the garbage collector would go through everything
else that is kept, over and over, in the thread that trains."""


def span_of(context: Context) -> tuple[int, int]:
    """The ids of the context's span and of its trace, 0 for none."""
    span = get_current_span(context).get_span_context()
    return span.span_id, span.trace_id


class Reservoir(Protocol):
    """A reservoir, as far as a series knows it."""

    keep: Callable[[Measured], None]

    def latest(self) -> float | None:
        """The last value that was kept."""
        ...


class BoundSeries:
    """The points of one tag of one run.

    Args:
        owner: the recorder that bound it; of no use to another.
        attributes: of each of its measurements.
    """

    __slots__ = ("_reservoir", "attributes", "keep", "owner", "shown")

    def __init__(self, owner: object, attributes: dict[str, str | int]) -> None:
        self.owner = owner
        self.attributes = attributes
        self.keep: Callable[[Measured], None] | None = None
        """Keeps one point; O(1), no lock. None: the series is not collected."""
        self.shown: float | None = None
        """What the gauge shows."""
        self._reservoir: Reservoir | None = None

    def context(self) -> Context:
        """That of the measurement which binds the series."""
        values: dict[str, Any] = {POINT_KEY: self}
        return Context(values)

    def bind(self, reservoir: Reservoir) -> None:
        """Has every further point kept there: the first time; further readers get what the gauge shows."""
        if self._reservoir is None:
            self._reservoir = reservoir
            self.keep = reservoir.keep

    def latest(self) -> float | None:
        """The last value that was kept, collected or not."""
        return self._reservoir.latest() if self._reservoir is not None else None
