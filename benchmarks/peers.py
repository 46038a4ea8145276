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

import math
import os
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from struct import pack
from typing import NamedTuple

import _bench
import _peers
import trackers
from _bench import TRACKERS, Point
from _peers import WAYS, Measured, Way

from tests.support import mlflow_content, wandb_subject
from tests.support.aim_subject import AimSubject
from tests.support.clearml_subject import ClearMLSubject

COLUMNS = ("thread", "wall", "process", "after", "all", "landed")
IMAGES = _bench.ROOT / "docs" / "images"


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
        return self.way.name + (" (file)" if self.way.reads_file else "")


def measure(way: Way, points: int) -> Round:
    """One round of one way, in a new process and a new folder."""
    with ExitStack() as stack:
        folder = stack.enter_context(_bench.new_folder())
        clearml = stack.enter_context(closing(ClearMLSubject(folder))) if way.tracker == "clearml" else None
        variables = clearml.server.variables() if clearml else {}
        if not way.is_ours:
            variables |= trackers.prepare(way.tracker, folder, points)
        figures, _ = _bench.call(_peers.measure, way.key, points, folder=folder, **variables)
        measured = Measured(**figures)
        if not way.tracker:
            return Round(measured, 100.0)
        found = points_in(way.tracker, folder, clearml)
        return Round(measured, share(_bench.make_points(points), found))


# -- what the tracker has ---------------------------------------------------------------------------------
Found = tuple[str, int, float]
"""Tag, step and value."""


def share(points: Iterable[Point], found: Iterable[Found]) -> float:
    """Percent of the points that are there, with tag, step and value.

    Names are compared by their last part, since each client puts something of its own before it. Values are
    compared as float32, since a ``SummaryWriter`` hands on float32.
    """
    wanted = {_comparable(tag, step, value) for tag, value, step in points}
    return 100 * len(wanted.intersection(_comparable(*point) for point in found)) / len(wanted)


def _comparable(tag: str, step: int, value: float) -> tuple[str, int, bytes]:
    as_float32 = pack("<f", value) if math.isfinite(value) else repr(value).encode()
    return tag.rsplit("/", 1)[-1], step, as_float32


def points_in(tracker: str, folder: Path, clearml: ClearMLSubject | None) -> Iterator[Found]:
    """The points that a tracker has of the process in that folder."""
    if tracker == "wandb":
        yield from _wandb(folder)
        return
    if clearml:
        runs = [clearml.points(task) for task in list(clearml.server.store.tasks)]
    elif tracker == "mlflow":
        runs = [mlflow_content.points(folder / "mlflow.db")]
    else:
        from aim import Repo

        subject = AimSubject(folder)
        subject.folder = folder
        runs = [subject.points(run) for run in Repo(str(folder)).list_all_runs()]
    for run in runs:
        for tag, points in run.items():
            for point in points:
                yield tag, point.step, point.value


def _wandb(folder: Path) -> Iterator[Found]:
    for log in folder.glob("wandb/*run-*/run-*.wandb"):
        for row in wandb_subject.rows(log):
            step = row.get("global_step", row.get("_step"))
            for tag, value in _flat(row):
                if isinstance(step, int) and isinstance(value, (int, float)):
                    yield tag, step, float(value)


def _flat(row: dict[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield key, value


# -- what comes of it -------------------------------------------------------------------------------------
def misses(figures: Sequence[Figures]) -> Iterator[str]:
    """The targets that are missed."""
    others = [item for item in figures if item.way.tracker and not item.way.is_ours]
    for mine in figures:
        if not mine.way.is_ours:
            continue
        if mine.median("landed") < 100:
            yield f"{mine.way.key}: {mine.median('landed'):.1f} % landed"
        for other in others:
            both_hook = mine.way.hooks_call and other.way.hooks_call
            if both_hook and mine.median("thread") >= other.median("thread"):
                yield f"{mine.way.key}: costs the thread more than {other.way.key}"
            same = mine.way.tracker == other.way.tracker and bool(mine.way.hook) == bool(other.way.hook)
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
    hooks = [item for item in figures if item.way.hooks_call]
    title = "CPU time that a hook adds to SummaryWriter.add_scalar, µs a call"
    draw(IMAGES / "benchmarks-thread.svg", hooks, "thread", title, least=0.5, form=".1f")
    ways = [item for item in figures if item.way.tracker]
    title = "From the first call to everything in the tracker, s"
    draw(IMAGES / "benchmarks-all.svg", ways, "all", title, least=0.1, form=".2f")
    return [
        *("![What the hooks add to a call](images/benchmarks-thread.svg)", ""),
        *("![How soon everything is in the tracker](images/benchmarks-all.svg)", ""),
    ]


def draw(path: Path, figures: Sequence[Figures], column: str, title: str, *, least: float, form: str) -> None:
    """Draws a column as bars on a logarithmic scale from ``least`` on. Equal figures give equal files."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = path.stem
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.4 * len(figures) + 1), layout="constrained")
    names = [f"{item.way.tracker}: {item.label}" for item in figures]
    colors = ["#2a6fdb" if item.way.is_ours else "#9aa4b2" for item in figures]
    values = [item.median(column) for item in figures]
    drawn = axes.barh(names, [max(value, least) for value in values], color=colors)
    axes.set_xscale("log")
    axes.set_xlim(left=least)
    axes.bar_label(drawn, [format(value, form) for value in values], padding=3)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = _bench.make_parser(__doc__, writes_docs=True, points=20_000, rounds=5)
    parser.add_argument("--trackers", nargs="+", choices=TRACKERS, default=TRACKERS)
    options = parser.parse_args()
    rounds = {way: list[Round]() for way in WAYS if not way.tracker or way.tracker in options.trackers}
    for number in range(options.rounds):
        for way, taken in rounds.items():
            print(f"round {number + 1} of {options.rounds}: {way.key}", file=sys.stderr, flush=True)
            taken.append(measure(way, options.points))
    figures = [Figures(way, taken) for way, taken in rounds.items()]
    figures.sort(key=lambda item: ("", *TRACKERS).index(item.way.tracker))
    lines = table(figures)
    title = f"{options.points:,} points over 10 tags, medians of {options.rounds} rounds"
    print(f"{title}, {os.cpu_count()} CPUs\n", *lines, sep="\n")
    content = {
        item.way.key: [{**taken.measured._asdict(), "landed": taken.landed} for taken in item.rounds]
        for item in figures
    }
    _bench.write_json(options, content)
    if options.write_docs:
        _bench.write_docs("peers", [f"{title}.", "", *charts(figures), *lines])
    missed = list(misses(figures))
    print(*missed, sep="\n")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
