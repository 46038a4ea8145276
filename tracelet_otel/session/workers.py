"""The session in a worker of Ray, which may be gone without a signal as soon as none of its tasks runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tracelet_otel.agent import last_word
from tracelet_otel.instrumentation.ray import tasks

if TYPE_CHECKING:
    from tracelet_otel.session.session import Session

START_S: Final = 10.0
"""How long the end of a task waits at most for an agent that starts: a second or two, once a worker."""
_LEAST_WAKE_S: Final = 0.1
"""Between two collections after short tasks."""
_woken = 0.0


def watch(current: Callable[[], Session | None]) -> None:
    """Has the end of each task end the session, as far as that can be done in advance.

    Args:
        current: the session in use.
    """

    def idle() -> None:
        global _woken
        session, now = current(), time.monotonic()
        if session is None or not session.run.opened:
            return
        if now - _woken > _LEAST_WAKE_S:
            _woken = now
            session.pipeline.wake()
        # What has been handed over survives. It takes milliseconds, but for an agent that is not there yet.
        while not session.pipeline.is_reached and time.monotonic() < now + START_S:
            time.sleep(0.01)

    tasks.on_change(last_word.say, idle)
