"""The figures of a benchmark: their medians and ranges, and where they go."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Figure(NamedTuple):
    """The median of some repeats, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(statistics.median(values), min(values), max(values))


class Row(NamedTuple):
    """One line of the table: a figure of each round."""

    name: str
    unit: str
    figures: list[float]
    target: float | None = None

    @property
    def median(self) -> float:
        return self.span.median

    @property
    def span(self) -> Figure:
        return Figure.of(self.figures)

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


def write_json(path: Path | None, figures: object) -> None:
    """Writes the figures to a file, if the user named one with ``--json``."""
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def report(title: str, rows: Sequence[Row], path: Path | None, figures: object) -> None:
    """Prints the rows below a title, and writes the figures as :func:`write_json` does."""
    print(title, *rows, sep="\n")
    write_json(path, figures)
