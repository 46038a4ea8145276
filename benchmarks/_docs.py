"""Puts what a benchmark measured into docs/benchmarks.md, between its two marks there."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from _rows import Row

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
_PACKAGES = ("opentelemetry-sdk", "torch", "mlflow", "wandb", "aim", "clearml")


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as a table."""
    lines = ["| | median | lowest | highest | |", "|---|--:|--:|--:|---|"]
    for row in rows:
        numbers = [f"{figure:,.3g}" if figure < 1000 else f"{figure:,.0f}" for figure in row.span]
        lines.append(f"| {row.name} | {' | '.join(numbers)} | {row.unit} |")
    return lines


def write(name: str, lines: Sequence[str]) -> None:
    """Replaces one benchmark's lines, and adds what they were measured with.

    Raises:
        ValueError: the page has no place of that name.
    """
    with_ = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    where = f"Python {platform.python_version()}, {os.cpu_count()} CPUs ({platform.machine()}), {with_}."
    text = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: made by benchmarks/{name}.py -->\n", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{PAGE} has no place for {name}")
    body = "\n".join([*lines, "", where])
    PAGE.write_text(pattern.sub(lambda _: f"{begin}{body}\n{end}", text), encoding="utf-8")
