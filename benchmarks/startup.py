"""How long `opentelemetry-instrument python -c pass` takes with this distribution and without it.

    python benchmarks/startup.py [--rounds 20] [--json results.json] [--write-docs]

It makes two environments from the one that runs it, in a temporary folder and with links only: one with every
package, one with every package except this one. The three commands take turns; each figure is the median of
the rounds.

python              `python -c pass`, without OpenTelemetry
without             `opentelemetry-instrument python -c pass` without this distribution
with                the same with it
with : without      the ratio of the two in one round; it has the target
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

import _docs
from _rows import Row

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1.5
OURS = "tracelet_otel"
_INSTRUMENT = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"


def make_environment(folder: Path, *, ours: bool) -> Path:
    """An environment with links to this one's packages; its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if OURS in entry.name and not (ours and entry.suffix == ".dist-info"):
            continue
        (packages / entry.name).symlink_to(entry)
    if ours:  # from the checkout, as a plain installation has it: without an import hook
        (packages / OURS).symlink_to(ROOT / OURS)
        (packages / "tracelet_otel_exporters").symlink_to(ROOT / "exporters" / "tracelet_otel_exporters")
    return folder / "bin" / "python"


def seconds(python: Path, *arguments: str) -> float:
    """How long a command takes."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "TRACELET_", "PYTHON"))
    }
    variables["PATH"] = f"{python.parent}{os.pathsep}{variables.get('PATH', '')}"
    began = time.perf_counter()
    done = subprocess.run(
        [str(python), *arguments], env=variables, capture_output=True, text=True, check=False
    )
    taken = time.perf_counter() - began
    if done.returncode or done.stderr:
        sys.exit(f"{arguments}: exit {done.returncode}\n{done.stderr}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    _docs.add_options(parser)
    options = parser.parse_args()
    figures: dict[str, list[float]] = {"python": [], "without": [], "with": []}
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        having = make_environment(Path(name, "with"), ours=True)
        lacking = make_environment(Path(name, "without"), ours=False)
        for number in range(-1, options.rounds):  # the first one fills the caches
            instrumented = ("-c", _INSTRUMENT, "python", "-c", "pass")
            taken = {
                "python": seconds(lacking, "-c", "pass"),
                "without": seconds(lacking, *instrumented),
                "with": seconds(having, *instrumented),
            }
            if number >= 0:
                for key, value in taken.items():
                    figures[key].append(value)
    ratios = [ours / theirs for ours, theirs in zip(figures["with"], figures["without"], strict=True)]
    rows = [Row(key, "s", values) for key, values in figures.items()]
    rows.append(Row("with : without", "x", ratios, LIMIT))
    title, caption = f"{options.rounds} rounds, medians and ranges", f"Medians of {options.rounds} rounds."
    _docs.report("startup", options, title, caption, rows, figures)
    sys.exit(any(row.misses for row in rows))


if __name__ == "__main__":
    main()
