"""Takes docs/images/mlflow.png: the MLflow page with the curves of the demo's newest run.

    make demo && .venv/bin/python tools/screenshot.py

Needs Chromium and its driver (on Debian: chromium and chromium-driver). Nothing is fetched from anywhere:
MLflow's pages come from `mlflow ui` on a free port of this machine, which ends with this script.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCALE = 0.8
SIZE = (1750, 1250)
"""Of the window, in CSS pixels; the picture has SCALE times as many."""
CHROMIUM = [
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
CLOSED = ["histogram/weights"]
"""Sections of charts that are closed."""
PREFER = """
localStorage.setItem('mlflow.workflowType_v1', '"machine_learning"');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
"""
CHARTS = "document.querySelectorAll('.js-plotly-plot').length"
ARRANGE = """
const [run, closed] = arguments;
const key = Object.keys(localStorage).find((key) => key.includes(run) && key.endsWith('chartUIState'));
const state = JSON.parse(localStorage.getItem(key));
for (const section of state.compareRunSections) section.display = !closed.includes(section.name);
localStorage.setItem(key, JSON.stringify(state));
location.reload();
"""
"""Closes sections of a run's charts, as a person would by hand."""
HIDE = """
const style = document.createElement('style');
style.textContent = '.modebar { display: none !important }';
document.head.append(style);
"""
"""Tool bars that a person sees only under the mouse."""


@contextmanager
def process(command: Sequence[str], health: str, timeout: float = 120) -> Generator[None]:
    """A server that answers at the URL ``health``; it and its children end with the block."""
    server = subprocess.Popen(
        command,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                with urllib.request.urlopen(health, timeout=5):
                    break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.3)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Browser:
    """Chromium, through the few WebDriver commands that are needed here (W3C WebDriver, chapter 6.5)."""

    def __init__(self, driver: str, profile: str) -> None:
        self._driver = driver
        options = {"args": [*CHROMIUM, f"--user-data-dir={profile}"]}
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self._session = ""
        self._session = self._command("POST", "", {"capabilities": capabilities})["sessionId"]

    def _command(self, method: str, path: str, body: object = None) -> Any:
        url = f"{self._driver}/session" + (f"/{self._session}{path}" if self._session else path)
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self._command("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """The value that JavaScript returns."""
        return self._command("POST", "/execute/sync", {"script": script, "args": arguments})

    def wait(self, condition: str, timeout: float = 60) -> None:
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + timeout
        while not self.run(f"return Boolean({condition})"):
            if time.monotonic() > deadline:
                raise TimeoutError(condition)
            time.sleep(0.3)

    def screenshot(self) -> bytes:
        return base64.b64decode(self._command("GET", "/screenshot"))

    def quit(self) -> None:
        self._command("DELETE", "")


def newest_run(database: Path, script: str) -> tuple[str, str]:
    """MLflow's ids of the demo's newest run of a script and of its experiment."""
    with sqlite3.connect(database) as connection:
        row = connection.execute(
            "select run_uuid, experiment_id from runs where name like ? || '-%' order by start_time desc",
            (script,),
        ).fetchone()
    connection.close()
    if row is None:
        sys.exit(f"{database} has no run of {script}: run `make demo` first")
    return row[0], str(row[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=ROOT / "demo-output", help="the demo's output folder")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "mlflow.png")
    options = parser.parse_args()
    database: Path = options.demo.resolve() / "mlflow.db"
    ui, driver = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    mlflow = [str(Path(sys.executable).parent / "mlflow"), "ui", "--workers", "1"]
    mlflow += ["--backend-store-uri", f"sqlite:///{database}", "--port", ui.rpartition(":")[2]]
    chromedriver = ["chromedriver", f"--port={driver.rpartition(':')[2]}"]
    with (
        tempfile.TemporaryDirectory(prefix="tracelet-chromium-", ignore_cleanup_errors=True) as profile,
        process(mlflow, f"{ui}/health"),
        process(chromedriver, f"{driver}/status"),
    ):
        browser = Browser(driver, profile)
        try:
            picture = shoot(browser, ui, *newest_run(database, "tensorboard_digits"))
        finally:
            browser.quit()
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    options.picture.write_bytes(picture)
    print(f"{options.picture}: {len(picture):,} bytes")


def shoot(browser: Browser, ui: str, run: str, experiment: str) -> bytes:
    """The picture of a run's curves."""
    browser.open(f"{ui}/health")  # a page of the same origin, where MLflow's own preferences can be set
    browser.run(PREFER)
    browser.open(f"{ui}/#/experiments/{experiment}/runs/{run}/model-metrics")
    browser.wait(f"{CHARTS} > 0")
    time.sleep(3)  # its arrangement of charts is saved a moment later
    browser.run(ARRANGE, run, CLOSED)
    time.sleep(3)
    browser.wait(f"{CHARTS} > 0")
    browser.run("document.querySelector('[aria-label=\"Toggle sidebar\"]').click()")
    browser.run(HIDE)
    time.sleep(3)  # charts are drawn to their final size in steps
    return browser.screenshot()


if __name__ == "__main__":
    main()
