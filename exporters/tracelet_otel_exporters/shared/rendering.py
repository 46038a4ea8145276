"""Small pictures of histograms and PR curves, for trackers that have no chart of their own for them."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

WIDTH: Final = 480
HEIGHT: Final = 300
_LEFT, _TOP, _RIGHT, _BOTTOM = 48, 12, WIDTH - 12, HEIGHT - 28
_BINS: Final = 40
_LARGEST: Final = sys.float_info.max
_BLUE: Final = (31, 119, 180)
_GRAY: Final = (120, 120, 120)


def histogram_png(histogram: Mapping[str, Any]) -> bytes | None:
    """Draws a histogram record's payload; None without Pillow or without anything to draw."""
    limits, counts = _floats(histogram.get("bucket_limits")), _floats(histogram.get("bucket_counts"))
    if not limits or len(limits) != len(counts):
        return None
    low, high = _bounds(histogram, limits)
    if not (high > low and max(counts) > 0):
        return None
    bars = equal_bins(limits, counts, (low, high), _BINS)
    tallest = max(bars)

    def draw(canvas: Any) -> None:
        for number, count in enumerate(bars):
            if count > 0:
                x0, x1 = _x(number / _BINS), _x((number + 1) / _BINS)
                canvas.rectangle((x0, _y(count / tallest), x1 - 1, _BOTTOM), fill=_BLUE)

    return _png(draw, (low, high), (0.0, tallest))


def equal_bins(
    limits: Sequence[float], counts: Sequence[float], ends: tuple[float, float], number: int
) -> list[float]:
    """Counts in bins of one width, as TensorBoard draws them: its buckets are narrow near 0 and wide far out.

    A bucket's count is shared among the bins that it covers.
    """
    low, high = ends
    width = (high - low) / number
    bars = [0.0] * number
    left = low
    for limit, count in zip(limits, counts, strict=True):
        right = min(max(limit, left), high)
        first = min(int((left - low) / width), number - 1)
        last = min(int((right - low) / width), number - 1)
        for place in range(first, last + 1):
            overlap = min(right, low + (place + 1) * width) - max(left, low + place * width)
            bars[place] += count * (overlap / (right - left) if right > left else 1.0)
        left = right
    return bars


def pr_curve_png(curve: Mapping[str, Any]) -> bytes | None:
    """Draws a PR curve record's payload, precision over recall; None without Pillow or points."""
    precision, recall = _floats(curve.get("precision")), _floats(curve.get("recall"))
    points = [(_x(x), _y(y)) for x, y in zip(recall, precision, strict=False) if 0 <= x <= 1 and 0 <= y <= 1]
    if len(points) < 2:
        return None

    def draw(canvas: Any) -> None:
        canvas.line(points, fill=_BLUE, width=2)

    return _png(draw, (0.0, 1.0), (0.0, 1.0))


def _bounds(histogram: Mapping[str, Any], limits: Sequence[float]) -> tuple[float, float]:
    # The outermost limits can be the largest floats; what was seen lies between min and max.
    low, high = (_floats([histogram.get(name)]) for name in ("min", "max"))
    bounds = (low or limits[:1])[0], (high or limits[-1:])[0]
    if bounds[0] == bounds[1]:
        return bounds[0] - 0.5, bounds[1] + 0.5
    return bounds if all(abs(bound) < 1e300 for bound in bounds) else (0.0, 0.0)


def _floats(values: object) -> list[float]:
    if not isinstance(values, list):
        return []
    numbers = cast("list[object]", values)
    return [
        min(max(float(v), -_LARGEST), _LARGEST) for v in numbers if isinstance(v, (int, float)) and v == v
    ]


def _x(share: float) -> float:
    return _LEFT + share * (_RIGHT - _LEFT)


def _y(share: float) -> float:
    return _BOTTOM - share * (_BOTTOM - _TOP)


def _png(draw: Any, x_range: tuple[float, float], y_range: tuple[float, float]) -> bytes | None:
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        return None
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    canvas = ImageDraw.Draw(image)
    draw(canvas)
    canvas.line([(_LEFT, _TOP), (_LEFT, _BOTTOM), (_RIGHT, _BOTTOM)], fill=_GRAY)
    labels = [
        ((_LEFT, HEIGHT - 20), x_range[0], "la"),
        ((_RIGHT, HEIGHT - 20), x_range[1], "ra"),
        ((_LEFT - 6, _BOTTOM - 10), y_range[0], "ra"),
        ((_LEFT - 6, _TOP), y_range[1], "ra"),
    ]
    for position, value, anchor in labels:
        text = f"{value:.4g}"
        shift = canvas.textlength(text) if anchor == "ra" else 0.0  # the bitmap font knows no anchors
        canvas.text((position[0] - shift, position[1]), text, fill=_GRAY)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
