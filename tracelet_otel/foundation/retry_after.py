"""How long a server asks its client to wait."""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST_PATIENCE_S: Final = 600.0
"""A server that asks for a longer wait is asked again after this one."""


def retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header of HTTP, which has seconds or a date; None without one."""
    try:
        seconds = float(value or "")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value or "").timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return min(seconds, LONGEST_PATIENCE_S) if math.isfinite(seconds) and seconds > 0 else None
