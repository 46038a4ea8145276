"""Histograms, PR curves and meshes in the forms that W&B draws."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any, Final, cast

MAX_BINS: Final = 512
"""``wandb.Histogram.MAX_LENGTH``."""
MAX_ROWS: Final = 10_000
"""``wandb.Table.MAX_ROWS``: more are cut off."""
_OUTER: Final = 1e300
"""TensorBoard's outermost limits can be the largest floats, which nothing can draw."""
_COLUMNS: Final = (
    *("recall", "precision", "thresholds"),
    *("true_positives", "false_positives", "true_negatives", "false_negatives"),
)


def bins(payload: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Counts, and the edges between and around them, or None without buckets; many are joined to fewer."""
    limits, counts = _numbers(payload.get("bucket_limits")), _numbers(payload.get("bucket_counts"))
    if not limits or len(limits) != len(counts):
        return None
    low = _number(payload.get("min"), limits[0])
    high = _number(payload.get("max"), limits[-1])
    first, last = limits[0], limits[-1]
    # The first bucket has no lower limit of its own, the last one's upper may be beyond all values.
    lower = min(low, first) if abs(low) < _OUTER else first
    if lower == first:
        lower = first - (limits[1] - first if len(limits) > 1 and limits[1] - first < _OUTER else 1.0)
    upper = max(high, limits[-2] if len(limits) > 1 else lower) if abs(last) >= _OUTER else last
    edges = [lower, *limits[:-1], upper]
    together = math.ceil(len(counts) / MAX_BINS)
    joined = [sum(counts[start : start + together]) for start in range(0, len(counts), together)]
    return joined, [*edges[:-1:together], edges[-1]]


def pr_curve(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of a W&B table of all the curve's numbers, or None without a curve."""
    lists = {name: _numbers(payload.get(name)) for name in _COLUMNS}
    length = len(lists["recall"])
    if not length or len(lists["precision"]) != length:
        return None
    columns = {name: values for name, values in lists.items() if len(values) == length}
    rows = [list(row) for row in zip(*columns.values(), strict=True)][:MAX_ROWS]
    return {"columns": list(columns), "data": rows}


def meshes(content: bytes) -> Iterator[tuple[str, str]]:
    """The shapes in an ``npz`` of a mesh record, as suffix and text of files that W&B's 3D view reads.

    A mesh is an OBJ, points alone are W&B's JSON of a point cloud.

    Raises:
        ValueError: it is not an ``npz`` of a mesh.
    """
    import numpy as np

    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        parts = [_batched(arrays, name) for name in ("vertices", "colors", "faces")]
    for points, shades, corners in zip_longest(*parts):
        if points is None:
            return
        if corners is not None and len(corners):
            yield "obj", _obj(points, shades, corners)
            continue
        cloud: Any = points.tolist()
        if shades is not None:
            cloud = [[*point[:3], *shade[:3]] for point, shade in zip(cloud, shades.tolist(), strict=True)]
        yield "pts.json", json.dumps(cloud)


def _obj(points: Any, shades: Any, corners: Any) -> str:
    # Wavefront OBJ, with the widely read extension of a color after the coordinates; it counts from 1.
    lines: list[str] = []
    for number, point in enumerate(points.tolist()):
        color = [channel / 255 for channel in shades[number].tolist()[:3]] if shades is not None else []
        lines.append("v " + " ".join(f"{value:.9g}" for value in [*point[:3], *color]))
    lines += ["f " + " ".join(str(int(corner) + 1) for corner in face) for face in corners.tolist()]
    return "\n".join(lines) + "\n"


def _batched(arrays: Any, name: str) -> Any:
    if name not in arrays:
        return ()
    array = arrays[name]
    return array[None] if array.ndim == 2 else array


def _numbers(values: object) -> list[float]:
    if not isinstance(values, list):
        return []
    members = cast("list[object]", values)
    return cast("list[float]", members) if all(isinstance(v, (int, float)) for v in members) else []


def _number(value: object, default: float) -> float:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else default
