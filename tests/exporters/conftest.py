"""A real MLflow: a SQLite database a test, and one `mlflow server` a session."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tracelet_otel_exporters import clearml_runs, mlflow_runs
from tracelet_otel_exporters.mlflow import MLflowTracker

with warnings.catch_warnings():
    # MLflow's models still use what SQLAlchemy deprecates; here warnings are errors.
    warnings.simplefilter("ignore")
    import mlflow.store.tracking.sqlalchemy_store  # pyright: ignore[reportUnusedImport]  # noqa: F401


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_runs, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(clearml_runs, "SETTLE_SECONDS", 0.0)


@pytest.fixture
def sqlite_uri(database: Path) -> str:
    return f"sqlite:///{database}"


@pytest.fixture(scope="session")
def server_uri(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (folder / "log.txt").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True
        )
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", server, folder / "log.txt")
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # its workers too
        server.wait()


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=1):
            return
        time.sleep(0.1)
    pytest.fail(f"mlflow server did not start:\n{log.read_text()}")


@pytest.fixture(params=["sqlite", "server"])
def uri(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_uri")


@pytest.fixture
def new_tracker() -> Iterator[Callable[[str], MLflowTracker]]:
    """Makes connected trackers, and closes their databases in the end."""
    made: list[MLflowTracker] = []

    def make(uri: str) -> MLflowTracker:
        made.append(MLflowTracker(uri))
        made[-1].connect()
        return made[-1]

    yield make
    for tracker in made:
        if not tracker._connected().is_http:
            tracker._connected().store._dispose_engine()


@pytest.fixture
def tracker(uri: str, new_tracker: Callable[[str], MLflowTracker]) -> MLflowTracker:
    return new_tracker(uri)


class Proxy(ThreadingHTTPServer):
    """In front of the real server, to fail as a proxy or a restarting server does."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.upstream = urlsplit(upstream).netloc
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.status = 0
        """What every request is answered with; 0: what the real server answers."""
        self.refused = 0


class _ProxyHandler(BaseHTTPRequestHandler):
    def do_any(self) -> None:
        proxy = self.server
        assert isinstance(proxy, Proxy)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if proxy.status:
            proxy.refused += 1
            self.send_response(proxy.status)
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with closing(http.client.HTTPConnection(proxy.upstream)) as upstream:
            headers = {**self.headers, "Host": proxy.upstream}
            upstream.request(self.command, self.path, body, headers)
            response = upstream.getresponse()
            content = response.read()
        self.send_response(response.status)
        self.send_header("Content-Type", response.headers.get("Content-Type", ""))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_any  # noqa: N815 - the base class's names

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxy(server_uri: str) -> Iterator[Proxy]:
    with Proxy(server_uri) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
