"""Which steps of a tag a tracker has, for trackers that keep one value a step."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import Literal


class Steps:
    """The steps of one tag that the tracker has, with the time of each; 16 bytes a step.

    Args:
        known: ``(step, time)`` of the points that the tracker had before, for a run that is resumed.
    """

    def __init__(self, known: Iterable[tuple[int, int]] = ()) -> None:
        ordered = sorted(known)
        self._steps = array("q", [step for step, _ in ordered])
        self._times = array("q", [time for _, time in ordered])

    def add(self, step: int, time: int) -> Literal["new", "same", "repeat"]:
        """Notes a point, unless there is one of this step.

        Args:
            step: a 64-bit integer.
            time: in the tracker's resolution.

        Returns:
            ``new``; ``same`` for the very point that is there, which comes again after a retry;
            ``repeat`` for another point of the same step, which the tracker cannot keep beside it.

        Raises:
            OverflowError: ``step`` or ``time`` has more than 64 bits.
        """
        if not self._steps or step > self._steps[-1]:
            self._steps.append(step)
            self._times.append(time)
            return "new"
        place = bisect_left(self._steps, step)
        if place < len(self._steps) and self._steps[place] == step:
            return "same" if self._times[place] == time else "repeat"
        self._steps.insert(place, step)
        self._times.insert(place, time)
        return "new"
