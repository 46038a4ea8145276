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

import os
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import _bench
from _bench import ROOT, Row

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
    foreign = ("OTEL_", "TRACELET_", "PYTHON")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    variables["PATH"] = f"{python.parent}{os.pathsep}{variables.get('PATH', '')}"
    began = time.perf_counter()
    done = subprocess.run([python, *arguments], env=variables, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - began
    if done.returncode or done.stderr:
        sys.exit(f"{arguments}: exit {done.returncode}\n{done.stderr}")
    return taken


def main() -> None:
    options = _bench.make_parser(__doc__, writes_docs=True, rounds=20).parse_args()
    figures: dict[str, list[float]] = {"python": [], "without": [], "with": []}
    with _bench.new_folder() as folder:
        having = make_environment(folder / "with", ours=True)
        lacking = make_environment(folder / "without", ours=False)
        instrumented = ("-c", _INSTRUMENT, "python", "-c", "pass")
        for number in range(-1, options.rounds):  # the first one fills the caches
            for key, python, arguments in (
                ("python", lacking, ("-c", "pass")),
                ("without", lacking, instrumented),
                ("with", having, instrumented),
            ):
                taken = seconds(python, *arguments)
                if number >= 0:
                    figures[key].append(taken)
    rows = [Row(key, "s", values) for key, values in figures.items()]
    rows.append(Row.ratios("with : without", figures["with"], figures["without"], LIMIT))
    title, caption = f"{options.rounds} rounds, medians and ranges", f"Medians of {options.rounds} rounds."
    _bench.report(options, title, rows, figures, caption)


if __name__ == "__main__":
    main()
