"""AIM's objects (images, sounds, texts, distributions, figures) with the exact bytes that were logged.

AIM's own constructors decode a picture and encode it again; its objects are only their storage, so the bytes
go there as they came. A figure needs no plotly: AIM stores its JSON.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from tracelet_otel_exporters.aim.store import library

BINS: Final = 64
"""Of a histogram that is not uniform; AIM's default."""
MAX_BINS: Final = 512
_SOUNDS: Final[Mapping[str, str]] = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
}


def image(content: bytes) -> Any | None:
    """A picture, or None for what a browser or Pillow does not know."""
    from aim.sdk.objects.image import Image

    pillow = library("PIL.Image")

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
    return _filled(Image, described, content)


def audio(content: bytes, mime_type: str) -> Any | None:
    """A sound, or None for a format that AIM does not play."""
    from aim.sdk.objects.audio import Audio

    if (kind := _SOUNDS.get(mime_type)) is None:
        return None
    return _filled(Audio, {"caption": "", "format": kind}, content)


def text(content: str) -> Any:
    """A text."""
    from aim.sdk.objects.text import Text

    return Text(content)


def distribution(histogram: Mapping[str, Any]) -> Any | None:
    """A histogram record's payload in bins of one width, or None without anything to show."""
    np = library("numpy")
    limits = np.asarray(histogram.get("bucket_limits") or [], dtype=float)
    counts = np.asarray(histogram.get("bucket_counts") or [], dtype=float)
    if not len(limits) or len(limits) != len(counts) or not np.isfinite(counts).all() or counts.sum() <= 0:
        return None
    low, high = _bound(histogram.get("min"), limits[0]), _bound(histogram.get("max"), limits[-1])
    if low == high:
        low, high = low - 0.5, high + 0.5
    if not (math.isfinite(low) and math.isfinite(high) and low < high and abs(low) + abs(high) < 1e300):
        return None
    edges = np.clip(np.concatenate(([low], limits)), low, high)
    edges[-1] = high  # what lies above the last limit is in the last bucket
    widths = np.diff(edges)
    if len(counts) <= MAX_BINS and np.allclose(widths, widths.mean(), rtol=1e-6, atol=0.0):
        weights = counts
    else:
        weights = np.zeros(BINS)
        step = (high - low) / BINS
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
            first = min(int((left - low) / step), BINS - 1)
            last = min(int((right - low) / step), BINS - 1)
            for number in range(first, last + 1):
                overlap = min(right, low + (number + 1) * step) - max(left, low + number * step)
                weights[number] += count * (overlap / (right - left) if right > left else 1.0)
    return library("aim.sdk.objects.distribution").Distribution(hist=weights, bin_range=(low, high))


def pr_curve(curve: Mapping[str, Any], name: str) -> Any | None:
    """A figure of precision over recall, or None without points."""
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
    axes = {axis: {"title": {"text": title}, "range": [0, 1.05]} for axis, title in _AXES}
    return figure({"data": [line], "layout": {"title": {"text": name}, **axes}})


_AXES: Final = (("xaxis", "recall"), ("yaxis", "precision"))


def figure(plot: Mapping[str, Any]) -> Any:
    """A figure of plotly's JSON."""
    from aim.sdk.objects.figure import Figure

    described = {"source": "plotly", "version": "unknown", "format": "raw_json"}
    return _filled(Figure, described, json.dumps(plot))


def _filled(kind: Any, described: Mapping[str, object], content: bytes | str) -> Any:
    from aim.storage.inmemorytreeview import InMemoryTreeView
    from aim.storage.types import BLOB

    # a storage of its own: the default of CustomObject.__new__ is one that all objects would share
    made = kind.__new__(kind, _storage=InMemoryTreeView(container={}))
    for name, value in described.items():
        made.storage[name] = value
    made.storage["data"] = BLOB(data=content)
    return made


def _bound(given: object, limit: Any) -> float:
    return float(given) if isinstance(given, (int, float)) and math.isfinite(given) else float(limit)


def _plain(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
