"""A real ``mlflow server``, and a proxy to fail as a restarting server or a proxy does."""

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
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest


@contextmanager
def mlflow_server(folder: Path, empty_database: Path) -> Generator[str]:
    """The URI of a server whose database is ``mlflow.db`` in the folder."""
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


class Proxy(ThreadingHTTPServer):
    """In front of the real server, to fail as a proxy or a restarting server does.

    Args:
        upstream: the real server's URI.
        port: 0 is any.
    """

    daemon_threads = True

    def __init__(self, upstream: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _ProxyHandler)
        self.upstream = urlsplit(upstream).netloc
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.status = 0
        """What every request is answered with; 0: what the real server answers."""
        self.retry_after = "7"
        self.refused: list[float] = []
        """When a request was answered so, of ``time.monotonic()``."""
        self.changed = threading.Condition()
        self.swallows = ""
        """What the path ends with of the request that the real server gets, and whose answer is lost."""
        self.swallowed = threading.Event()

    def wait_until_refused(self, times: int, seconds: float = 60) -> None:
        """Returns once it has answered so often with :attr:`status`."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.refused) >= times, seconds)

    @contextmanager
    def serving(self) -> Generator[Proxy]:
        """While it lasts, it answers; then its port is closed."""
        with self:
            thread = threading.Thread(target=self.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield self
            finally:
                self.shutdown()
                thread.join()


class _ProxyHandler(BaseHTTPRequestHandler):
    def do_any(self) -> None:
        proxy = self.server
        assert isinstance(proxy, Proxy)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if proxy.status:
            with proxy.changed:
                proxy.refused.append(time.monotonic())
                proxy.changed.notify_all()
            self.send_response(proxy.status)
            self.send_header("Retry-After", proxy.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with closing(http.client.HTTPConnection(proxy.upstream)) as upstream:
            headers = {**self.headers, "Host": proxy.upstream}
            upstream.request(self.command, self.path, body, headers)
            response = upstream.getresponse()
            content = response.read()
        if proxy.swallows and self.path.endswith(proxy.swallows):
            proxy.status = 503
            proxy.swallowed.set()
            self.close_connection = True
            return
        self.send_response(response.status)
        self.send_header("Content-Type", response.headers.get("Content-Type", ""))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_any  # noqa: N815 - the base class's names

    def log_message(self, format: str, *args: object) -> None:
        pass
