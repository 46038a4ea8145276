"""How urgent a delivery is: whether a caller waits for it, and how long it pauses if none does."""

from __future__ import annotations

import threading
from collections.abc import Callable

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
LONGEST_BACKOFF_AT_EXIT_S = 1.0
SHARE = 0.01
"""CPU time that a delivery takes from training while it is not behind. Python's threads share one lock:
what a tracker's client computes, training waits for."""
LONGEST_REST_S = 10.0


class Urgency:
    """It is read and changed under :attr:`condition`, where every change is notified.

    :meth:`rest` and :meth:`stand_by` are called with it held.
    """

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiters = 0
        self.closing = False
        """No more data comes."""
        self.abandoned = False
        """Nobody waits any more, for anything."""
        self._hurried = False

    def set_waited_for(self, wanted: bool) -> None:
        """A caller begins, or ceases, to wait. Rests and back-offs are short meanwhile."""
        with self.condition:
            self.waiters += 1 if wanted else -1
            self.condition.notify_all()

    def hurry(self) -> None:
        """No more rests: the process is about to end."""
        with self.condition:
            self._hurried = True
            self.condition.notify_all()

    def rest(self, worked: float, is_behind: Callable[[], bool]) -> None:
        """Leaves the interpreter to training after so many seconds of work, unless there is hurry."""
        self.condition.wait_for(
            lambda: self.waiters or self.closing or self._hurried or is_behind(),
            min(worked * (1 / SHARE - 1), LONGEST_REST_S),
        )

    def back_off(self, delay: float) -> bool:
        """Waits before the next attempt, shorter if there is hurry; whether there is to be one."""
        with self.condition:
            if self.abandoned:
                return False
            ending, waiters = self._is_ending, self.waiters
            if ending or waiters:
                delay = min(delay, LONGEST_BACKOFF_AT_EXIT_S)
            # Not until the next notification: there is one for every batch that comes.
            self.condition.wait_for(
                lambda: self.abandoned or self.waiters > waiters or self._is_ending is not ending, delay
            )
            return not self.abandoned

    def stand_by(self) -> None:
        """Waits before the next attempt at what cannot work until a person changes the set-up."""
        patience = LONGEST_BACKOFF_AT_EXIT_S if self.closing else LONGEST_BACKOFF_S
        self.condition.wait_for(lambda: self.abandoned, patience)

    @property
    def _is_ending(self) -> bool:
        return self.closing or self._hurried
