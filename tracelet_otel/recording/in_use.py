"""The recorder that every hook and every function of the API records into.

Nothing is recorded before a session installs one.
"""

from __future__ import annotations

from collections.abc import Callable

from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.recording.run import Run

_recorder: Recorder | None = None
_callbacks: list[Callable[[], None]] = []


def install(recorder: Recorder | None) -> None:
    """Makes ``recorder`` the one in use; None stops recording."""
    global _recorder
    _recorder = recorder


def current() -> Recorder | None:
    """The recorder in use, if any."""
    return _recorder


def scalar(
    tag: str,
    value: float,
    step: int = 0,
    *,
    time_unix_nano: int | None = None,
    single: bool = False,
    run: Run | None = None,
) -> None:
    """Records one point; the arguments are those of :data:`~tracelet_otel.recording.logged.LoggedPoint`.

    Raises:
        OverflowError: the step is not in the range of int64.
    """
    if _recorder is not None:
        _recorder.scalar((tag, value, step, time_unix_nano, single, run))


def event(event: LoggedEvent) -> None:
    """Records anything that is not a scalar."""
    if _recorder is not None:
        _recorder.event(event)


def before_collect(callback: Callable[[], None]) -> None:
    """Has ``callback`` called in the pipeline's thread before each collection and each flush.

    For values whose conversion would make training wait, such as tensors on a device. Registering
    the same function again changes nothing; it outlives any pipeline.
    """
    if callback not in _callbacks:
        _callbacks.append(callback)


def collection_callbacks() -> list[Callable[[], None]]:
    """What :func:`before_collect` registered."""
    return list(_callbacks)
