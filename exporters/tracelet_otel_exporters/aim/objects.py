"""AIM's objects (images, sounds, texts, distributions, figures) with the exact bytes that were logged.

AIM's own constructors decode a picture and encode it again; its objects are only their storage, so the bytes
go there as they came. A figure needs no plotly: AIM stores its JSON.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, cast

from tracelet_otel_exporters.aim.private import media_object
from tracelet_otel_exporters.shared.rendering import equal_bins

BINS: Final = 64
"""Of a histogram that is not uniform; AIM's default."""
MAX_BINS: Final = 512
_SOUNDS: Final = {"wav": "wav", "wave": "wav", "mpeg": "mp3", "mp3": "mp3", "flac": "flac"}
"""By MIME type, without ``audio/`` and ``x-``: AIM's name of the format."""


def image(content: bytes) -> Any | None:
    """A picture, or None for what a browser or Pillow does not know."""
    import aim
    import PIL.Image

    pillow: Any = PIL.Image
    try:
        with pillow.open(io.BytesIO(content)) as opened:
            described = {
                "source": "PIL.Image",
                "mode": opened.mode,
                "format": (opened.format or "png").lower(),
                "width": opened.width,
                "height": opened.height,
                "caption": "",
            }
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError):
        return None
    return media_object(aim.Image, described, content)


def audio(content: bytes, mime_type: str) -> Any | None:
    """A sound, or None for a format that AIM does not play."""
    import aim

    kind = _SOUNDS.get(mime_type.removeprefix("audio/").removeprefix("x-"))
    if kind is None:
        return None
    return media_object(aim.Audio, {"caption": "", "format": kind}, content)


def distribution(histogram: Mapping[str, Any]) -> Any | None:
    """A histogram record's payload in bins of one width, or None without anything to show."""
    import aim
    import numpy as np

    limits: list[float] = np.asarray(histogram.get("bucket_limits") or [], dtype=float).tolist()
    counts: list[float] = np.asarray(histogram.get("bucket_counts") or [], dtype=float).tolist()
    if not limits or len(limits) != len(counts) or not all(map(math.isfinite, counts)) or sum(counts) <= 0:
        return None
    low, high = _bound(histogram.get("min"), limits[0]), _bound(histogram.get("max"), limits[-1])
    if low == high:
        low, high = low - 0.5, high + 0.5
    if not (math.isfinite(low) and math.isfinite(high) and low < high and abs(low) + abs(high) < 1e300):
        return None
    limits[-1] = high  # what lies above the last limit is in the last bucket
    edges = [low, *(min(max(limit, low), high) for limit in limits)]
    width = (high - low) / len(counts)
    is_uniform = all(math.isclose(right - left, width, rel_tol=1e-6) for left, right in pairwise(edges))
    if len(counts) > MAX_BINS or not is_uniform:
        counts = equal_bins(limits, counts, (low, high), BINS)
    return aim.Distribution(hist=np.asarray(counts), bin_range=(low, high))


def pr_curve(curve: Mapping[str, Any], name: str) -> Any | None:
    """A figure of precision over recall, or None without points."""
    import aim

    recall, precision = curve.get("recall"), curve.get("precision")
    if not isinstance(recall, list) or not isinstance(precision, list) or not recall:
        return None
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": [_plain(value) for value in cast("Sequence[object]", recall)],
        "y": [_plain(value) for value in cast("Sequence[object]", precision)],
        "name": name,
    }
    titles = {"xaxis": "recall", "yaxis": "precision"}
    axes = {axis: {"title": {"text": title}, "range": [0, 1.05]} for axis, title in titles.items()}
    plot = json.dumps({"data": [line], "layout": {"title": {"text": name}, **axes}})
    described = {"source": "plotly", "version": "unknown", "format": "raw_json"}
    return media_object(aim.Figure, described, plot)


def _bound(given: object, limit: Any) -> float:
    return float(given) if isinstance(given, (int, float)) and math.isfinite(given) else float(limit)


def _plain(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
