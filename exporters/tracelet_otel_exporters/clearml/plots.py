"""Plotly figures of histograms, PR curves and meshes, as those of ClearML's own ``report_histogram``.

A figure's ``layout.meta.tracelet`` holds the record's payload as it was logged, character by character, so
that the drawing may leave out what it cannot show.
"""

from __future__ import annotations

import io
import json
import math
from typing import Any, Final, cast

from tracelet_otel.otlp.records import Record
from tracelet_otel_exporters.shared.record_content import json_object

MAX_POINTS: Final = 20_000
"""Of a mesh's drawing; the file has them all."""

Figure = dict[str, Any]


def histogram(record: Record, title: str, series: str) -> str:
    """Bars over the buckets' true edges.

    Raises:
        ValueError: the payload is not a histogram.
    """
    data = json_object(record)
    limits, counts = _numbers(data.get("bucket_limits")), _numbers(data.get("bucket_counts"))
    if len(limits) != len(counts):
        raise ValueError("a histogram has as many limits as counts")
    bars: list[tuple[float, float, float]] = []
    left = _number(data.get("min"), limits[0] if limits else 0.0)
    for limit, count in zip(limits, counts, strict=True):
        right = min(limit, _number(data.get("max"), limit)) if limit > left else limit
        if right > left and count and math.isfinite(right - left):
            bars.append((left, right, count))
        left = max(left, right)
    trace: Figure = {
        "type": "bar",
        "name": series,
        "x": [(low + high) / 2 for low, high, _ in bars],
        "width": [high - low for low, high, _ in bars],
        "y": [count for _, _, count in bars],
        "customdata": [[low, high] for low, high, _ in bars],
        "hovertemplate": "%{customdata[0]} to %{customdata[1]}: %{y}<extra></extra>",
    }
    axes = {"xaxis": {"title": "value"}, "yaxis": {"title": "count"}, "bargap": 0}
    return _figure(trace, title, axes, record)


def pr_curve(record: Record, title: str, series: str) -> str:
    """Precision over recall, with each point's threshold.

    Raises:
        ValueError: the payload is not a PR curve.
    """
    data = json_object(record)
    trace: Figure = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": series,
        "x": _numbers(data.get("recall")),
        "y": _numbers(data.get("precision")),
        "text": [f"threshold {number:g}" for number in _numbers(data.get("thresholds"))],
    }
    axes = {
        "xaxis": {"title": "recall", "range": [0, 1]},
        "yaxis": {"title": "precision", "range": [0, 1.05]},
    }
    return _figure(trace, title, axes, record)


def mesh(record: Record, title: str, series: str) -> str | None:
    """The first mesh or point cloud of a batch; None where it cannot be drawn, as its file is kept anyway."""
    try:
        import numpy as np

        arrays: Any = np.load(io.BytesIO(record.read()), allow_pickle=False)
        vertices = _first(arrays, "vertices")
        faces, colors = _first(arrays, "faces"), _first(arrays, "colors")
    except Exception:  # no numpy, or no such file: numpy raises many types
        return None
    if vertices is None or len(vertices) > MAX_POINTS:
        return None
    trace: Figure = {"name": series, **dict(zip("xyz", _columns(vertices), strict=False))}
    shades: list[str] = []
    if colors is not None and len(colors) == len(vertices):
        shades = [f"rgb({','.join(str(int(c)) for c in color[:3])})" for color in colors]
    if faces is not None and len(faces):
        trace |= {"type": "mesh3d", **dict(zip("ijk", _columns(faces), strict=False))}
        if shades:
            trace["vertexcolor"] = shades
    else:
        trace |= {"type": "scatter3d", "mode": "markers", "marker": {"size": 2}}
        if shades:
            trace["marker"]["color"] = shades
    return _figure(trace, title, {}, None)


def _figure(trace: Figure, title: str, axes: Figure, record: Record | None) -> str:
    layout: Figure = {"title": title, **axes}
    if record is not None:
        layout["meta"] = {"tracelet": record.read().decode()}
    return json.dumps({"data": [trace], "layout": layout})


def _numbers(values: object) -> list[float]:
    if not isinstance(values, list):
        return []
    return [_number(value, 0.0) for value in cast("list[object]", values)]


def _number(value: object, default: float) -> float:
    """A number that JSON has; infinity is the largest one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return default
    return float(min(max(value, -1.7976931348623157e308), 1.7976931348623157e308))


def _first(arrays: Any, name: str) -> Any:
    if name not in arrays:
        return None
    array = arrays[name]
    return array[0] if array.ndim == 3 else array


def _columns(array: Any) -> list[list[float]]:
    return [[x if math.isfinite(x) else 0.0 for x in column.tolist()] for column in array.T[:3]]
