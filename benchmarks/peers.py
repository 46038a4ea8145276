"""What logging costs training, and how soon everything is in the tracker, for each way into the tracker.

    python benchmarks/peers.py [--points 20000] [--rounds 5] [--trackers mlflow aim] [--json results.json]
                               [--write-docs]

Each way logs the same points in a process, a folder and a backend of its own. The ways take turns, round by
round, and each figure is the median of the rounds. Afterwards the points are read back from the tracker and
counted. MLflow is a SQLite file, W&B is offline, AIM is a local repository, and ClearML is the server of the
tests. Before the clock starts, the client is imported, the agent is started, and the run is open and has a
point.

thread      CPU time of the training thread, in microseconds a call. For a way that only hooks into
            `SummaryWriter.add_scalar` it is what the hook adds to a plain call, which is measured before in
            the same process; for all other ways it is the time of their calls
wall        the same as wall time; a plain `add_scalar` spends most of it waiting for its own writer's thread
process     the same as CPU time of all threads of the training process
after       seconds from the last call until the client's own function for writing everything returns; if a
            client writes in its calls, little is left then, but training had to wait for the calls
all         seconds from the first call to the same moment, including all calls and plain `add_scalar`
landed      percent of the points that the tracker has, with tag, step and value

Ways marked with (file) read the event file: they add nothing to the call, but take time in another process.
AIM's `aim.ext.tensorboard_tracker` is one of these; it needs TensorFlow, and is not measured.

Exits with 1 unless all of this holds for this package: its hook costs the thread less than every other hook
into the call; everything is in the tracker sooner after the first call than with every other way into the
same tracker whose script makes the same calls; and all points have landed. MLflow's own hook and `log_metric`
take milliseconds a point: with the defaults they need most of the time of this program.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import _chart  # noqa: E402
import _docs  # noqa: E402
import _landed  # noqa: E402
import trackers  # noqa: E402
from _peers import WAYS, Measured, Way, make_points  # noqa: E402
from _processes import run  # noqa: E402
from _rows import write_json  # noqa: E402

from tests.support.clearml_subject import ClearMLSubject  # noqa: E402

COLUMNS = ("thread", "wall", "process", "after", "all", "landed")
IMAGES = ROOT / "docs" / "images"


class Round(NamedTuple):
    """One round of one way."""

    measured: Measured
    landed: float
    """Percent."""


class Figures(NamedTuple):
    """The rounds of one way."""

    way: Way
    rounds: list[Round]

    def median(self, column: str) -> float:
        """The median of a column; NaN if the column is empty."""
        at = COLUMNS.index(column)
        found = [[*item.measured, item.landed][at] for item in self.rounds]
        return statistics.median(math.nan if figure is None else figure for figure in found)

    @property
    def label(self) -> str:
        """The way's name, marked if it reads the event file."""
        return self.way.name + (" (file)" if self.way.hooks == "file" else "")


def measure(way: Way, points: int) -> Round:
    """One round of one way, in a new process and a new folder."""
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        server = ClearMLSubject(folder) if way.tracker == "clearml" else None
        try:
            variables = trackers.environment(name, server.server.variables() if server else {})
            if not way.is_ours:
                trackers.prepare(way.tracker, name, points, variables)
            run([str(Path(__file__).with_name("_peers.py")), way.key, str(points)], name, variables, way.key)
            measured = Measured(**json.loads((folder / "figures.json").read_text(encoding="utf-8")))
            if not way.tracker:
                return Round(measured, 100.0)
            read: dict[str, Any] = {"mlflow": _landed.mlflow, "wandb": _landed.wandb, "aim": _landed.aim}
            found = _landed.clearml(server) if server else read[way.tracker](folder)
            return Round(measured, _landed.share(make_points(points), found))
        finally:
            if server:
                server.close()


def misses(figures: Sequence[Figures]) -> Iterator[str]:
    """The targets that are missed."""
    ours = [item for item in figures if item.way.is_ours]
    for mine in ours:
        if mine.median("landed") < 100:
            yield f"{mine.way.key}: {mine.median('landed'):.1f} % landed"
        for other in figures:
            if other.way.is_ours or not other.way.tracker:
                continue
            hook = mine.way.hooks == other.way.hooks == "call"
            if hook and mine.median("thread") >= other.median("thread"):
                yield f"{mine.way.key}: costs the thread more than {other.way.key}"
            same = mine.way.tracker == other.way.tracker and bool(mine.way.hooks) == bool(other.way.hooks)
            if same and mine.median("all") >= other.median("all"):
                yield f"{mine.way.key}: there later than by {other.way.key}"


def table(figures: Sequence[Figures]) -> list[str]:
    """The lines of the table, as Markdown."""
    lines = [
        "| tracker | way | thread, µs | wall, µs | process, µs | after, s | all, s | landed, % |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for item in figures:
        numbers = [f"{item.median(name):.1f}" for name in COLUMNS[:3]]
        if item.way.tracker:
            numbers += [f"{item.median(name):.2f}" for name in ("after", "all")]
            numbers.append(f"{item.median('landed'):.1f}")
        numbers = ["" if number == "nan" else number for number in numbers] + [""] * (6 - len(numbers))
        lines.append(f"| {' | '.join([item.way.tracker, item.label, *numbers])} |")
    return lines


def charts(figures: Sequence[Figures]) -> list[str]:
    """Draws the charts of the page; the lines that show them, as Markdown."""

    def bars(column: str, chosen: Sequence[Figures]) -> list[_chart.Bar]:
        return [
            _chart.Bar(item.way.tracker, item.label, item.median(column), item.way.is_ours) for item in chosen
        ]

    hooks = bars("thread", [item for item in figures if item.way.hooks == "call"])
    title = "CPU time that a hook adds to SummaryWriter.add_scalar, µs a call"
    _chart.draw(IMAGES / "benchmarks-thread.svg", hooks, title, least=0.5, form=".1f")
    ways = bars("all", [item for item in figures if item.way.tracker])
    title = "From the first call to everything in the tracker, s"
    _chart.draw(IMAGES / "benchmarks-all.svg", ways, title, least=0.1, form=".2f")
    return [
        *("![What the hooks add to a call](images/benchmarks-thread.svg)", ""),
        *("![How soon everything is in the tracker](images/benchmarks-all.svg)", ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trackers", nargs="+", choices=trackers.TRACKERS, default=trackers.TRACKERS)
    _docs.add_options(parser)
    options = parser.parse_args()
    ways = [way for way in WAYS if not way.tracker or way.tracker in options.trackers]
    rounds: dict[Way, list[Round]] = {way: [] for way in ways}
    for number in range(options.rounds):
        for way, taken in rounds.items():
            print(f"round {number + 1} of {options.rounds}: {way.key}", file=sys.stderr, flush=True)
            taken.append(measure(way, options.points))
    figures = [Figures(way, taken) for way, taken in rounds.items()]
    figures.sort(key=lambda item: (item.way.tracker and trackers.TRACKERS.index(item.way.tracker) + 1) or 0)
    lines = table(figures)
    title = f"{options.points:,} points over {trackers.TAGS} tags, medians of {options.rounds} rounds"
    print(f"{title}, {os.cpu_count()} CPUs\n", *lines, sep="\n")
    if options.json:
        content = {
            item.way.key: [{**taken.measured._asdict(), "landed": taken.landed} for taken in item.rounds]
            for item in figures
        }
        write_json(options.json, content)
    if options.write_docs:
        _docs.write("peers", [f"{title}.", "", *charts(figures), *lines])
    missed = list(misses(figures))
    print(*missed, sep="\n")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
