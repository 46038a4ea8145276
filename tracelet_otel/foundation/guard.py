"""The error boundary between telemetry and training.

What goes wrong inside this package stays inside it: it is logged, at most once a minute per place, and
never raised into training.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import TracebackType

from tracelet_otel.foundation.forks import SharedLock
from tracelet_otel.foundation.logs import get_logger

logger = get_logger()

raises = False
"""Whether failures are raised all the same. Only the project's tests set it, so that none passes over one."""
_INTERVAL_S = 60.0
_BAD_INPUT = (TypeError, ValueError, OverflowError, OSError, ImportError)
_MOST_PLACES = 1000
_lock = SharedLock()
_last: dict[str, float] = {}


def log_once(
    place: str, level: int, message: str, *args: object, exc_info: BaseException | None = None
) -> None:
    """Logs ``message``, unless ``place`` logged within the last minute."""
    now = time.monotonic()
    with _lock:
        if len(_last) >= _MOST_PLACES:  # bad input may name any number of places by its tags
            _last.clear()
        if now - _last.get(place, -_INTERVAL_S) < _INTERVAL_S:
            return
        _last[place] = now
    logger.log(level, "tracelet-otel: " + message, *args)  # noqa: G003


class Guard:
    """``with guard("place"):`` keeps every ``Exception`` of its block away from training.

    ``KeyboardInterrupt``, ``SystemExit`` and other ``BaseException`` are the user's and pass through.
    One instance serves any number of threads: it has no state.
    """

    __slots__ = ("_place",)

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if raises or not isinstance(error, Exception):
            return False
        log_once(self._place, logging.WARNING, "%s failed; training goes on: %r", self._place, error)
        logger.debug("traceback of the failure in %s", self._place, exc_info=error)
        return True


class Skipping:
    """``with Skipping("log_text", tag):`` logs once what is wrong with a value, and training goes on."""

    __slots__ = ("_function", "_tag")

    def __init__(self, function: str, tag: object = None) -> None:
        self._function = function
        self._tag = tag

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:  # nearly always, and a name for the place costs more than the rest
            return False
        tag = self._tag
        place = f"{self._function}({tag!r:.200})" if isinstance(tag, (str, Path)) else f"{self._function}()"
        if isinstance(error, _BAD_INPUT):
            log_once(place, logging.WARNING, "%s: skipped: %s", place, error)
            return True
        return Guard(place).__exit__(kind, error, trace)
