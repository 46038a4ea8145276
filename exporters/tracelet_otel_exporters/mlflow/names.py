"""Names that MLflow takes, made from any name.

A valid name stays as it is, the others are escaped by :mod:`tracelet_otel_exporters.shared.safe_names`.
The rules are those of ``mlflow/utils/validation.py``: characters, and no name that would resolve to another
as a path.
"""

from __future__ import annotations

import os
import re
from typing import Final

from tracelet_otel_exporters.shared.safe_names import cut, escape

MAX_KEY: Final = 250
"""Characters of a metric's, parameter's or tag's name."""
MAX_IMAGE_KEY: Final = 140
"""Characters: MLflow makes one file name of the key, the step, the time, an id and a suffix."""

_RANK_SUFFIX: Final = re.compile(r"/rank_([1-9][0-9]*)\Z")
_KEY_BAD: Final = r"[^/\w.\- ]" if os.name == "nt" else r"[^/\w.\- :]"
_PATH_RULES: Final = (
    r"\A/|(?<=/)/|/\Z"  # MLflow compares with posixpath.normpath, which drops these slashes
    r"|\A\.(?=\.)|(?:(?<=/)|\A)\.(?=\.?(?:/|\Z))"  # a name may not begin with "..", nor hold ./ or ../
)


def _unsafe(bad: str) -> re.Pattern[str]:
    """What to escape: bad characters, path rules, and an underscore that would begin an escape."""
    return re.compile(rf"{bad}|{_PATH_RULES}|_(?=x[0-9A-F]{{4,6}}(?:_|/\Z|{bad}))")


_KEY: Final = _unsafe(_KEY_BAD)
_IMAGE_KEY: Final = _unsafe(r"[^a-zA-Z0-9_\-./ ]")


def encode(name: str, limit: int = MAX_KEY) -> str:
    """A key for a metric, parameter or tag; the name itself where MLflow takes it."""
    return cut(name, escape(_KEY, name), limit)


def metric_key(tag: str, rank: int | None = None) -> str:
    """The key of a series. Ranks above 0 end in ``/rank_<n>``; no tag's own name can end so."""
    if rank is not None and rank > 0:
        suffix = f"/rank_{rank}"
        return encode(tag, MAX_KEY - len(suffix)) + suffix
    key = encode(tag)
    if (match := _RANK_SUFFIX.search(key)) is None:
        return key
    escaped = f"{key[: match.start()]}/rank_x005F_{match[1]}"
    return cut(tag, escaped, MAX_KEY)


def image_key(tag: str) -> str:
    """A key for MLflow's time-stepped images, which take fewer characters than its metrics."""
    return cut(tag, escape(_IMAGE_KEY, tag), MAX_IMAGE_KEY)
