"""Parts of the chain, each a process of its own: a collector, a gateway; and what doubles every request."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.scripts import clean_environment

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 64 * 1024**2
PATIENCE_S = 60.0
Protocol = Literal["grpc", "http/protobuf"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def until(holds: Callable[[], bool], what: str, patience: float = PATIENCE_S) -> None:
    """Waits for another process's doing, which nobody signals to this one."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {patience:g} s"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def process(
    command: list[str], folder: Path, log: str, **variables: str
) -> Generator[subprocess.Popen[bytes]]:
    """Runs a server; its output is appended to a file, whose end the test's report shows."""
    with (folder / log).open("ab") as output:
        started = subprocess.Popen(
            command, cwd=folder, env=clean_environment(**variables), stdout=output, stderr=output
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
        sys.stdout.write(f"--- {log}\n{(folder / log).read_text(errors='replace')[-3000:]}")


class Gateway:
    """``tracelet-otel gateway`` on a folder; may be killed, and started again on the same ports."""

    def __init__(self, folder: Path, backends: str, **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.grpc, self.http = free_port(), free_port()
        self._backends = backends
        self._variables = {"XDG_STATE_HOME": str(folder / "state"), **variables}
        self._running = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            str(Path(sys.executable).parent / "tracelet-otel"),
            "gateway",
            "--backends",
            self._backends,
        ]
        command += ["--grpc", f"127.0.0.1:{self.grpc}", "--http", f"127.0.0.1:{self.http}"]
        self._process = self._running.enter_context(
            process(command, self.folder, "gateway.log", **self._variables)
        )
        until(self._is_ready, "the gateway is ready")

    def kill(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self._running.close()

    def metrics(self) -> dict[str, float]:
        """Its own metrics, each summed over its labels."""
        found: dict[str, float] = {}
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=5) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for sample in family.samples:
                    found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    def _is_ready(self) -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError):
            url = f"http://127.0.0.1:{self.http}/readyz"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.status == 200
        assert self._process
        assert self._process.poll() is None, "the gateway ended"
        return False


class Ports:
    """Where a collector listens."""

    def __init__(self) -> None:
        self.grpc, self.http = free_port(), free_port()


@contextmanager
def rotel(folder: Path, gateway: Gateway, protocol: Protocol) -> Generator[Ports]:
    """PyPI's rotel, a collector in a single binary; test_chain tells what it does not do."""
    if importlib.util.find_spec("rotel") is None:
        pytest.skip("PyPI's rotel has no wheel for this Python or machine")
    spec = importlib.util.find_spec("rotel")
    assert spec
    assert spec.submodule_search_locations
    ports = Ports()
    to = gateway.grpc if protocol == "grpc" else gateway.http
    options = {
        "otlp-grpc-endpoint": f"127.0.0.1:{ports.grpc}",
        "otlp-http-endpoint": f"127.0.0.1:{ports.http}",
        "otlp-grpc-max-recv-msg-size-mib": "64",
        "batch-timeout": "100ms",
        "exporter": "otlp",
        "otlp-exporter-endpoint": f"http://127.0.0.1:{to}",
        "otlp-exporter-protocol": protocol.partition("/")[0],
        "otlp-exporter-request-timeout": "30s",
        "otlp-exporter-retry-initial-backoff": "100ms",
        "otlp-exporter-retry-max-backoff": "1s",
        "pid-file": str(folder / "rotel.pid"),
        "log-file": str(folder / "rotel-agent.log"),
    }
    command = [str(Path(spec.submodule_search_locations[0]) / "rotel-agent"), "start"]
    for name, value in options.items():
        command += [f"--{name}", value]
    with process(command, folder, "rotel.log"):
        until(lambda: listens(ports.grpc) and listens(ports.http), "rotel listens")
        yield ports


@contextmanager
def otelcol(folder: Path, gateway: Gateway, protocol: Protocol) -> Generator[Ports]:
    """The OpenTelemetry Collector that ``OTELCOL`` names, with the configuration of examples/collector."""
    binary = os.environ.get("OTELCOL")
    if not binary:
        pytest.skip("OTELCOL names no OpenTelemetry Collector (contrib)")
    if protocol != "grpc":
        pytest.skip("examples/collector sends to the gateway by gRPC")
    ports = Ports()
    config = ROOT / "examples" / "collector" / "collector.yaml"
    variables = {
        "COLLECTOR_STORAGE": str(folder / "queue"),
        "COLLECTOR_GRPC_PORT": str(ports.grpc),
        "COLLECTOR_HTTP_PORT": str(ports.http),
        "GATEWAY_GRPC_PORT": str(gateway.grpc),
    }
    with process([binary, "--config", str(config)], folder, "otelcol.log", **variables):
        until(lambda: listens(ports.grpc) and listens(ports.http), "the Collector listens")
        yield ports


@contextmanager
def nothing(folder: Path, gateway: Gateway, protocol: Protocol) -> Generator[Ports]:
    """No collector between."""
    ports = Ports()
    ports.grpc, ports.http = gateway.grpc, gateway.http
    yield ports


COLLECTORS = {"rotel": rotel, "otelcol": otelcol, "nothing": nothing}


@contextmanager
def doubler(collector: Ports) -> Generator[Ports]:
    """Sends every request that it gets on to a collector, twice."""
    ports = Ports()
    with _double_grpc(ports.grpc, collector.grpc), _double_http(ports.http, collector.http):
        yield ports


@contextmanager
def _double_grpc(port: int, to: int) -> Generator[None]:
    options = [("grpc.max_receive_message_length", LIMIT), ("grpc.max_send_message_length", LIMIT)]
    channel = grpc.insecure_channel(f"127.0.0.1:{to}", options)

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[bytes, bytes]:
            call = channel.unary_unary(handler_call_details.method)

            def twice(request: bytes, context: grpc.ServicerContext) -> bytes:
                try:
                    call(request, timeout=30)
                    return call(request, timeout=30)
                except grpc.RpcError as error:
                    context.abort(error.code(), error.details())  # type: ignore[attr-defined]
                    raise

            return grpc.unary_unary_rpc_method_handler(twice)

    server = grpc.server(ThreadPoolExecutor(4), options=options)
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()
        channel.close()


@contextmanager
def _double_http(port: int, to: int) -> Generator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() in ("content-type", "content-encoding")
            }
            self._send(body, headers)
            status, kind, answer = self._send(body, headers)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _send(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
            url = f"http://127.0.0.1:{to}{self.path}"
            request = urllib.request.Request(url, body, dict(headers))
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, answer.headers.get("Content-Type", ""), answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.headers.get("Content-Type", ""), error.read()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def install_fifth_tracker(folder: Path) -> str:
    """The tracker of docs/add-a-tracker.md, as an installer leaves it in a folder; for ``PYTHONPATH``."""
    shutil.copytree(ROOT / "tests" / "fifth_tracker" / "json_folder", folder / "json_folder")
    info = folder / "json_folder-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: json-folder\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tracelet_otel_tracker]\njson_folder = json_folder:JsonFolderTracker\n"
    )
    return str(folder)
