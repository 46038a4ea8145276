"""What all benchmarks share: options, points, processes, times, and where the figures go.

It makes the repository's ``tests`` importable, and turns MLflow's telemetry off. Import it before MLflow.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
TRACKERS = ("mlflow", "wandb", "aim", "clearml")
TAGS = tuple(f"train/metric_{index}" for index in range(10))
_PACKAGES = ("opentelemetry-sdk", "torch", *TRACKERS)

sys.path.insert(0, str(ROOT))
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def make_parser(
    description: str | None, *, writes_docs: bool = False, **counts: int
) -> argparse.ArgumentParser:
    """A parser with ``--json``, and an option with its default for each of the counts."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, help="file for the figures")
    if writes_docs:
        parser.add_argument(
            "--write-docs", action="store_true", help="put the figures into docs/benchmarks.md"
        )
    return parser


# -- points -----------------------------------------------------------------------------------------------
class Point(NamedTuple):
    tag: str
    value: float
    step: int


def make_points(count: int) -> list[Point]:
    """Points of ten tags, step by step."""
    return [
        Point(f"group/tag{index % 10}", (index // 10 * 31 + index % 10) % 997 / 997, index // 10)
        for index in range(count)
    ]


def log_all(log: Callable[[str, float, int], object], points: Iterable[Point]) -> None:
    for tag, value, step in points:
        log(tag, value, step)


def start(**settings: Any) -> None:
    """Configures this package, and waits until its client is imported, the run is open and has a point."""
    import tracelet_otel

    tracelet_otel.configure(**settings)
    tracelet_otel.log_scalar("warm-up", 0.0, 0)
    assert tracelet_otel.flush(300)


# -- times ------------------------------------------------------------------------------------------------
class Cost(NamedTuple):
    """Microseconds a call."""

    thread: float
    """CPU time of the calling thread."""
    wall: float
    process: float
    """CPU time of all threads."""

    def minus(self, other: Cost) -> Cost:
        return Cost(*(mine - its for mine, its in zip(self, other, strict=True)))


def timed(action: Callable[[], object], calls: int) -> Cost:
    """What an action costs that makes so many calls."""
    clocks = (time.thread_time, time.perf_counter, time.process_time)
    began = [clock() for clock in clocks]
    action()
    return Cost(*((clock() - then) / calls * 1e6 for clock, then in zip(clocks, began, strict=True)))


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def medians(costs: Sequence[Cost]) -> Cost:
    return Cost(*map(statistics.median, zip(*costs, strict=True)))


# -- processes --------------------------------------------------------------------------------------------
@contextmanager
def new_folder() -> Generator[Path]:
    """A temporary folder. An agent may still write into it while it is removed."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def run(name: str, command: Sequence[str], folder: Path, **variables: str) -> str:
    """Runs Python in a folder that has the trackers' data; its standard output, and then its error output.

    A process that fails ends the benchmark with its exit code and both outputs.

    Args:
        name: what a failure is reported as.
        command: the arguments after the Python that runs this.
        folder: the process's current folder.
        variables: environment variables, besides those of this process and those that the benchmarks need.
    """
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "XDG_STATE_HOME": f"{folder}/state",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "environment,system_metrics",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{name}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def call(work: Callable[..., Any], *arguments: object, folder: Path, **variables: str) -> tuple[Any, str]:
    """Calls a benchmark's function in a process of its own, as :func:`run` does; all travels as JSON.

    Returns:
        What the function returned, and what the process printed.
    """
    name = f"{work.__name__}{arguments}"
    module = Path(inspect.getfile(work)).stem
    printed = run(name, [__file__, module, work.__name__, json.dumps(arguments)], folder, **variables)
    return json.loads((folder / "figures.json").read_text(encoding="utf-8")), printed


@cache
def _empty_mlflow() -> bytes:
    code = "from mlflow import MlflowClient; MlflowClient('sqlite:///empty.db').search_experiments()"
    with new_folder() as folder:
        run("empty database", ["-c", code], folder)
        return (folder / "empty.db").read_bytes()


def make_mlflow(path: Path) -> str:
    """Writes an empty database of MLflow; its URI. The first one takes seconds, the others do not."""
    path.write_bytes(_empty_mlflow())
    return f"sqlite:///{path}"


def count_in_mlflow(folder: Path) -> int:
    """The points in the database of a process in this folder, without the machine's."""
    with closing(sqlite3.connect(folder / "mlflow.db", timeout=60)) as connection:
        return connection.execute("select count(*) from metrics where key not like 'system/%'").fetchone()[0]


# -- figures ----------------------------------------------------------------------------------------------
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
    figures: Sequence[float]
    target: float | None = None

    @classmethod
    def ratios(
        cls, name: str, ours: Iterable[float], theirs: Iterable[float], target: float | None = None
    ) -> Row:
        """The ratio of two figures of the same round."""
        return cls(name, "x", [mine / other for mine, other in zip(ours, theirs, strict=True)], target)

    @property
    def span(self) -> Figure:
        return Figure.of(self.figures)

    @property
    def misses(self) -> bool:
        return self.target is not None and self.span.median > self.target

    @property
    def verdict(self) -> str:
        """Empty without a target."""
        return "" if self.target is None else "over" if self.misses else "OK"

    def __str__(self) -> str:
        median, low, high = self.span
        verdict = "" if self.target is None else f"   at most {self.target:g}: {self.verdict}"
        return f"{self.name:<18}{median:>8.3f} {self.unit:<4} {low:.3f}-{high:.3f}{verdict}"

    def markdown(self) -> str:
        numbers = [f"{figure:,.3g}" if figure < 1000 else f"{figure:,.0f}" for figure in self.span]
        return f"| {self.name} | {' | '.join(numbers)} | {self.unit} |"


def report(
    options: argparse.Namespace, title: str, rows: Sequence[Row], figures: object = None, caption: str = ""
) -> None:
    """Prints the rows below a title, and writes the figures where the options say.

    Exits with 1 if a row misses its target.

    Args:
        options: see :func:`make_parser`.
        title: the line above the printed rows.
        rows: the lines of the table.
        figures: what the JSON file gets, if not the figures of the rows by name.
        caption: the line above the table of the page.
    """
    print(title, *rows, sep="\n")
    write_json(options, figures or {row.name: row.figures for row in rows})
    if "write_docs" in options and options.write_docs:
        head = ["| | median | lowest | highest | |", "|---|--:|--:|--:|---|"]
        write_docs(Path(sys.argv[0]).stem, [caption, "", *head, *(row.markdown() for row in rows)])
    sys.exit(any(row.misses for row in rows))


def write_json(options: argparse.Namespace, figures: object) -> None:
    """Writes the figures to a file, if the user named one with ``--json``."""
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def versions(*packages: str) -> dict[str, object]:
    """What figures depend on, for the JSON file."""
    found = {package: version(package) for package in packages}
    return {"python": platform.python_version(), **found, "cpus": os.cpu_count()}


def write_docs(name: str, lines: Sequence[str]) -> None:
    """Replaces one benchmark's lines on the page, and adds the versions that they were measured with.

    Raises:
        ValueError: the page does not have the marks of that benchmark.
    """
    with_ = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    where = f"Python {platform.python_version()}, {os.cpu_count()} CPUs ({platform.machine()}), {with_}."
    begin, end = f"<!-- {name}: made by benchmarks/{name}.py -->\n", f"<!-- end of {name} -->"
    before, found, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{PAGE} has no place for {name}")
    body = "\n".join([*lines, "", where])
    PAGE.write_text(f"{before}{begin}{body}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    # The other process's part of call().
    _module, _function, _arguments = sys.argv[1:]
    _figures = getattr(importlib.import_module(_module), _function)(*json.loads(_arguments))
    Path("figures.json").write_text(json.dumps(_figures), encoding="utf-8")
