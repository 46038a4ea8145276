"""Takes the pictures docs/images/mlflow.png and aim.png: one run, on the pages of both trackers.

    .venv/bin/python -m tools.screenshot

It runs examples/tensorboard_digits.py under `opentelemetry-instrument`, in a temporary folder. The pages come
from `mlflow ui` and `aim up` on free ports of this machine; both end with this script.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tools.browser import SIZE, Browser, browser, free_port, process

ROOT: Final = Path(__file__).resolve().parent.parent
BIN: Final = Path(sys.executable).parent
VARIABLES: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "OMP_NUM_THREADS": "1",  # more threads would only wait for each other, as the model is small
    "OTEL_METRICS_EXPORTER": "mlflow,aim",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "argparse,system_metrics,gpu",
    "TRACELET_PROJECT": "digits",
    "TRACELET_EXPERIMENT": "digits",
    "TRACELET_RUN_NAME": "baseline",
    "TRACELET_SHUTDOWN_TIMEOUT": "100",
    "PATH": f"{BIN}:{os.environ['PATH']}",  # `aim up` starts another `aim`
}
LOCATION: Final = {
    "mlflow": r"mlflow: .*delivered all -> .* experiment (?P<experiment>\d+) run (?P<run>\w+)",
    "aim": r"aim: .*delivered all -> .* run (?P<run>\w+)",
}
"""What the closing lines look like."""
CLOSED: Final = ["histogram/weights"]
"""Sections of charts that are shown closed."""
PREFER: Final = """
localStorage.setItem('mlflow.workflowType_v1', '"machine_learning"');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
"""
CHARTS: Final = "document.querySelectorAll('.js-plotly-plot').length"
ARRANGE: Final = """
const [run, closed] = arguments;
const key = Object.keys(localStorage).find((key) => key.includes(run) && key.endsWith('chartUIState'));
const state = JSON.parse(localStorage.getItem(key));
for (const section of state.compareRunSections) section.display = !closed.includes(section.name);
localStorage.setItem(key, JSON.stringify(state));
location.reload();
"""
"""Closes sections of a run's charts, as a person would by hand."""
HIDE: Final = """
const style = document.createElement('style');
style.textContent = '.modebar { display: none !important }';
document.head.append(style);
"""
"""Hides the tool bars, which are visible only under the mouse."""
AIM_CHARTS: Final = "document.querySelectorAll('path[class*=Line]').length"
SKIP: Final = """
for (const button of document.querySelectorAll('button'))
  if (button.textContent.trim() === 'Skip') button.click();
"""
"""Closes AIM's invitation to its community."""


def train(folder: Path) -> dict[str, Mapping[str, str]]:
    """Trains into both trackers; the ids of the run in each."""
    command = [str(BIN / "opentelemetry-instrument"), sys.executable]
    command += [str(ROOT / "examples" / "tensorboard_digits.py"), "--output", str(folder / "logs")]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **VARIABLES, "TRACELET_SPOOL_DIR": str(folder / "state")},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = {name: re.search(pattern, done.stderr) for name, pattern in LOCATION.items()}
    if done.returncode or not all(found.values()):
        sys.exit(done.stderr)
    return {name: match.groupdict() for name, match in found.items() if match}


def shoot_mlflow(shown: Browser, folder: Path, run: str, experiment: str) -> bytes:
    """The run's curves in MLflow."""
    ui = f"http://127.0.0.1:{free_port()}"
    command = [str(BIN / "mlflow"), "ui", "--workers", "1", "--port", ui.rpartition(":")[2]]
    with process(
        [*command, "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"], f"{ui}/health", VARIABLES
    ):
        shown.open(f"{ui}/health")  # a page of the same origin, where MLflow's own preferences can be set
        shown.run(PREFER)
        shown.open(f"{ui}/#/experiments/{experiment}/runs/{run}/model-metrics")
        shown.wait(f"{CHARTS} > 0")
        time.sleep(3)  # MLflow saves its arrangement of charts a moment later
        shown.run(ARRANGE, run, CLOSED)
        time.sleep(3)
        shown.wait(f"{CHARTS} > 0")
        shown.run("document.querySelector('[aria-label=\"Toggle sidebar\"]').click()")
        shown.run(HIDE)
        time.sleep(3)  # charts reach their final size in steps
        return shown.screenshot()


def shoot_aim(shown: Browser, folder: Path, run: str) -> bytes:
    """The run's curves in AIM."""
    ui = f"http://127.0.0.1:{free_port()}"
    command = [str(BIN / "aim"), "up", "--yes", "--repo", str(folder), "--port", ui.rpartition(":")[2]]
    with process(command, f"{ui}/api/projects/", VARIABLES):
        shown.resize(SIZE[0], 1930)  # three rows of charts
        shown.open(f"{ui}/runs/{run}/metrics")
        shown.wait(f"{AIM_CHARTS} >= 6")
        time.sleep(2)
        shown.run(SKIP)
        time.sleep(2)
        return shown.screenshot()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs" / "images", help="folder for them")
    pictures: Path = parser.parse_args().pictures
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tracelet-run-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        runs = train(folder)
        with browser() as shown:
            taken = {
                "mlflow.png": shoot_mlflow(shown, folder, **runs["mlflow"]),
                "aim.png": shoot_aim(shown, folder, **runs["aim"]),
            }
    for picture, content in taken.items():
        (pictures / picture).write_bytes(content)
        print(f"{pictures / picture}: {len(content):,} bytes")


if __name__ == "__main__":
    main()
