"""A headless Chromium, and the servers whose pages it takes pictures of.

It needs Chromium and its driver (on Debian: chromium and chromium-driver). It downloads nothing.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

SCALE = 0.8
SIZE = (1750, 1250)
"""Width and height of the window, in CSS pixels; a picture has SCALE times as many pixels."""
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


@contextmanager
def process(
    command: Sequence[str], health: str, variables: Mapping[str, str] | None = None, timeout: float = 120
) -> Generator[None]:
    """Runs a server that answers at the URL ``health``; it and its children end with the block."""
    server = subprocess.Popen(
        command,
        env={**os.environ, **(variables or {})},
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
        """Runs JavaScript; the value that it returns."""
        return self._command("POST", "/execute/sync", {"script": script, "args": arguments})

    def wait(self, condition: str, timeout: float = 60) -> None:
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + timeout
        while not self.run(f"return Boolean({condition})"):
            if time.monotonic() > deadline:
                raise TimeoutError(condition)
            time.sleep(0.3)

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the window, in CSS pixels."""
        self._command("POST", "/window/rect", {"width": width, "height": height})

    def screenshot(self) -> bytes:
        return base64.b64decode(self._command("GET", "/screenshot"))

    def quit(self) -> None:
        self._command("DELETE", "")


@contextmanager
def browser() -> Generator[Browser]:
    """A new browser, which ends with the block."""
    driver = f"http://127.0.0.1:{free_port()}"
    command = ["chromedriver", f"--port={driver.rpartition(':')[2]}"]
    with (
        tempfile.TemporaryDirectory(prefix="tracelet-chromium-", ignore_cleanup_errors=True) as profile,
        process(command, f"{driver}/status"),
    ):
        started = Browser(driver, profile)
        try:
            yield started
        finally:
            started.quit()
