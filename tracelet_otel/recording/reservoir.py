"""An exemplar reservoir that keeps every measurement: the history that a gauge's last value lacks."""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass
from struct import Struct
from typing import Any, cast

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, Exemplar, ExemplarReservoir
from opentelemetry.sdk.metrics.view import View
from opentelemetry.util.types import Attributes

from tracelet_otel import semconv
from tracelet_otel.recording.series import POINT_KEY, SHOWN, BoundSeries, Measured, span_of

CARDINALITY_LIMIT = 1_000_000
"""Tags (times runs) beyond which the SDK would fold points into one overflow series."""

_FLOAT32 = Struct("<f")
_SMALLEST_NORMAL = 2.0**-126
_SHORT_FORMS = tuple(f"%.{digits}g" for digits in range(1, 9))  # constants: format() costs more


def shortest_float32(value: float) -> float:
    """The shortest decimal that reads back to the same float32: 0.001, not 0.0010000000474974513.

    ``value`` must be exactly representable as a float32 and finite. Nine digits always suffice.
    """
    # Below the smallest normal float32 there are fewer significant digits than six.
    for short_form in _SHORT_FORMS[5:] if abs(value) >= _SMALLEST_NORMAL else _SHORT_FORMS:
        short = float(short_form % value)
        try:
            if _FLOAT32.unpack(_FLOAT32.pack(short))[0] == value:
                return short
        except OverflowError:  # rounded up past the largest float32
            continue
    return float(f"{value:.9g}")


@dataclass(slots=True)
class KeptPoint:
    """An exemplar as far as any exporter can tell. Making the SDK's own, which is frozen, takes three times
    as long, and there is one for every point.
    """

    filtered_attributes: Attributes
    value: int | float
    time_unix_nano: int
    span_id: int | None = None
    trace_id: int | None = None


class LosslessReservoir(ExemplarReservoir):
    """Keeps every measurement, in order, until it is collected.

    Many threads add while one collects. A deque's ``append`` and ``popleft`` are atomic, so no
    point falls between two lists; memory is bounded by how much is logged within one collection
    interval.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._measurements: deque[Measured] = deque()
        self.keep = self._measurements.append
        """Keeps one point; O(1), no lock."""
        self._latest: float | None = None
        self._sequence = secrets.randbits(62)  # so that no numbers are those of another process

    def offer(self, value: float, time_unix_nano: int, attributes: Attributes, context: Context) -> None:
        """Keeps a measurement that came through the instrument; O(1), no lock."""
        point = context.get(POINT_KEY)
        if isinstance(point, BoundSeries):
            point.bind(self)
        elif point is None:  # recorded by somebody else
            self.keep((value, time_unix_nano, None, False, *span_of(context)))
        elif point is not SHOWN:
            step, own_time, single = cast("tuple[int, int | None, bool]", point)
            self.keep((value, own_time or time_unix_nano, step, single, *span_of(context)))

    def latest(self) -> float | None:
        """The last value that was kept, collected or not."""
        return self._measurements[-1][0] if self._measurements else self._latest

    def collect(self, point_attributes: Attributes) -> list[Exemplar]:
        """Everything kept since the last call, in order, as exemplars with their step and span."""
        pop = self._measurements.popleft
        exemplars: list[KeptPoint] = []
        for _ in range(len(self._measurements)):
            self._latest, time_unix_nano, step, single, span_id, trace_id = pop()
            exemplars.append(
                KeptPoint(
                    None if step is None else {semconv.STEP: step},
                    shortest_float32(self._latest) if single else self._latest,
                    time_unix_nano,
                    span_id or None,
                    trace_id or None,
                )
            )
        if exemplars:
            exemplars[0].filtered_attributes = {
                **(exemplars[0].filtered_attributes or {}),
                semconv.SEQUENCE: self._sequence,
            }
            self._sequence += len(exemplars)
        return cast("list[Exemplar]", exemplars)


def _always_lossless(aggregation: object) -> Any:
    return LosslessReservoir


def lossless_views() -> list[View]:
    """The views that make a ``MeterProvider`` keep every point; use with :data:`EXEMPLAR_FILTER`."""
    return [
        View(
            instrument_name=name,
            exemplar_reservoir_factory=_always_lossless,
            aggregation_cardinality_limit=CARDINALITY_LIMIT,
        )
        for name in (semconv.SCALAR, semconv.SCALAR_NONFINITE)
    ]


EXEMPLAR_FILTER = AlwaysOnExemplarFilter()
