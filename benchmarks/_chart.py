"""Draws bars into an SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Bar(NamedTuple):
    """One bar."""

    group: str
    name: str
    value: float
    stands_out: bool


def draw(path: Path, bars: Sequence[Bar], title: str, *, least: float, form: str) -> None:
    """Draws the bars one below the other, on a logarithmic scale, with their values. Equal figures give equal
    files.

    Args:
        path: the file.
        bars: the bars from the top.
        title: the title, with the unit.
        least: where the scale begins.
        form: the format of the values.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = path.stem
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.4 * len(bars) + 1), layout="constrained")
    names = [f"{bar.group}: {bar.name}" for bar in bars]
    colors = ["#2a6fdb" if bar.stands_out else "#9aa4b2" for bar in bars]
    drawn = axes.barh(names, [max(bar.value, least) for bar in bars], color=colors)
    axes.set_xscale("log")
    axes.set_xlim(left=least)
    axes.bar_label(drawn, [format(bar.value, form) for bar in bars], padding=3)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
