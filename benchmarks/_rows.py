"""One line of a benchmark's table."""

from __future__ import annotations

import statistics
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table: a figure of each round."""

    name: str
    unit: str
    figures: list[float]
    target: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.figures)

    @property
    def span(self) -> tuple[float, float, float]:
        """The median, the lowest and the highest."""
        return self.median, min(self.figures), max(self.figures)

    @property
    def misses(self) -> bool:
        return self.target is not None and self.median > self.target

    @property
    def verdict(self) -> str:
        """Empty without a target."""
        return "" if self.target is None else "over" if self.misses else "OK"

    def __str__(self) -> str:
        median, low, high = self.span
        verdict = "" if self.target is None else f"   at most {self.target:g}: {self.verdict}"
        return f"{self.name:<18}{median:>8.3f} {self.unit:<4} {low:.3f}-{high:.3f}{verdict}"
