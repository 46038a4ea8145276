"""Parameters as flat names and texts, for trackers that have no nested ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import cast


def flatten(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Names joined with ``/`` and their values; lists and empty objects are values."""
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(cast("Mapping[str, object]", value), f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", cast("object", value)


def as_text(value: object) -> str:
    """A value as text; lists and objects as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)
