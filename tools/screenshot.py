"""Takes the pictures docs/images/mlflow.png and aim.png: one run, on the pages of both trackers.

    .venv/bin/python -m tools.screenshot

It runs examples/tensorboard_digits.py under `opentelemetry-instrument`, in a temporary folder. The pages come
from `mlflow ui` and `aim up` on free ports of this machine; both end with this script.
It needs Chromium and its driver (on Debian: chromium and chromium-driver). It downloads nothing.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).resolve().parent.parent
BIN: Final = Path(sys.executable).parent
SCALE: Final = 0.8
SIZE: Final = (1750, 1250)
"""Width and height of the window, in CSS pixels; a picture has SCALE times as many pixels."""
CHROMIUM: Final = [
    "--headless",
    "--no-sandbox",  # it may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    f"--force-device-scale-factor={SCALE}",
    f"--window-size={SIZE[0]},{SIZE[1]}",
]
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


@contextmanager
def server(command: Sequence[str], health: str) -> Generator[str]:
    """Runs a server on a free port, for which PORT stands in the command, until the end of the block.

    Yields its address as soon as the path ``health`` answers. The server's children end with it.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [word.replace("PORT", port) for word in command],
        env={**os.environ, **VARIABLES},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(address + health, timeout=5, follow_redirects=True).raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


class Browser:
    """Chromium, through the few WebDriver commands that are needed here (W3C WebDriver, chapter 6.5)."""

    def __init__(self, session: str) -> None:
        self._session = session

    def command(self, method: str, path: str, body: object = None) -> Any:
        answer = httpx.request(method, self._session + path, json=body, timeout=120)
        return answer.raise_for_status().json()["value"]

    def open(self, url: str) -> None:
        self.command("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """Runs JavaScript; the value that it returns."""
        return self.command("POST", "/execute/sync", {"script": script, "args": arguments})

    def wait(self, condition: str) -> None:
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + 60
        while not self.run(f"return Boolean({condition})"):
            if time.monotonic() > deadline:
                raise TimeoutError(condition)
            time.sleep(0.3)

    def screenshot(self) -> bytes:
        return base64.b64decode(self.command("GET", "/screenshot"))


@contextmanager
def browser() -> Generator[Browser]:
    """A new browser, which ends with the block."""
    with (
        tempfile.TemporaryDirectory(prefix="tracelet-chromium-", ignore_cleanup_errors=True) as profile,
        server(["chromedriver", "--port=PORT"], "/status") as driver,
    ):
        options = {"args": [*CHROMIUM, f"--user-data-dir={profile}"]}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        started = Browser(f"{driver}/session").command("POST", "", {"capabilities": wanted})
        shown = Browser(f"{driver}/session/{started['sessionId']}")
        try:
            yield shown
        finally:
            shown.command("DELETE", "")


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
    command = [str(BIN / "mlflow"), "ui", "--workers", "1", "--port", "PORT"]
    with server([*command, "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"], "/health") as ui:
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
    command = [str(BIN / "aim"), "up", "--yes", "--repo", str(folder), "--port", "PORT"]
    with server(command, "/api/projects/") as ui:
        shown.command("POST", "/window/rect", {"width": SIZE[0], "height": 1930})  # three rows of charts
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
