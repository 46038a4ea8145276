"""Puts what a benchmark measured into docs/benchmarks.md, between its two marks there."""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import _rows
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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that :func:`report` reads."""
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--write-docs", action="store_true", help="put the figures into docs/benchmarks.md")


def report(
    name: str, options: argparse.Namespace, title: str, caption: str, rows: Sequence[Row], figures: object
) -> None:
    """Prints the rows, and writes figures and table where the options say.

    Args:
        name: the benchmark's name.
        options: see :func:`add_options`.
        title: the line above the printed rows.
        caption: the line above the table of the page.
        rows: the lines of both.
        figures: what the JSON file gets.
    """
    _rows.report(title, rows, options.json, figures)
    if options.write_docs:
        write(name, [caption, "", *table(rows)])


def write(name: str, lines: Sequence[str]) -> None:
    """Replaces one benchmark's lines, and adds the versions that they were measured with.

    Raises:
        ValueError: the page does not have the marks of that benchmark.
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
