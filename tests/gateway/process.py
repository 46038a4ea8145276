"""A gateway as its own process, and what talks to it: real clients of both protocols."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import grpc
import httpx
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from prometheus_client.parser import text_string_to_metric_families

from tests.support.contract_data import Request
from tests.support.scripts import clean_environment

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICES = {
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
}
_RESPONSES: dict[str, Any] = {"metrics": ExportMetricsServiceResponse, "logs": ExportLogsServiceResponse}

Protocol = Literal["grpc", "http"]


def install_json_tracker(folder: Path) -> Path:
    """A site folder in which the tracker of JSON files is installed."""
    about = folder / "json_tracker-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    about.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: json-tracker\nVersion: 1.0\n")
    about.joinpath("entry_points.txt").write_text(
        "[tracelet_otel_tracker]\njson_folder = tests.fifth_tracker.json_folder:JsonFolderTracker\n"
    )
    return folder


class Gateway:
    """The process; to be used as a context, at whose end it is killed if it still runs.

    Args:
        folder: with everything that it writes.
        arguments: of the command line.
        variables: of the environment.
    """

    def __init__(self, folder: Path, *arguments: object, variables: Mapping[str, str] | None = None) -> None:
        site = install_json_tracker(folder / "site")
        self.environment = {
            **clean_environment(),
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
            "XDG_STATE_HOME": str(folder / "state"),
            "JSON_FOLDER": str(folder / "json" / "runs"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **(variables or {}),
        }
        command = [sys.executable, "-m", "tracelet_otel.cli", "gateway"]
        command += ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, cwd=folder, env=self.environment, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        if self.process.stderr is not None:
            self.process.stderr.close()

    def heard(self, message: str, timeout: float = 30) -> dict[str, Any]:
        """The log line with this message, once it is there."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._find(message) or self._ended(), timeout)
        line = self._find(message)
        assert line is not None, (found, self.raw)
        return line

    @property
    def grpc(self) -> str:
        """Its address."""
        return self.heard("listening")["grpc"]

    @property
    def http(self) -> str:
        """Its address."""
        return self.heard("listening")["http"]

    def stop(self, timeout: float = 90) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def measured(self) -> dict[str, float]:
        """Its own metrics but for buckets, by name and labels; not those that are empty or name the scope."""
        text = httpx.get(f"http://{self.http}/metrics").text
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.endswith("_bucket") or sample.name.startswith(("python_", "process_")):
                    continue
                labels = [
                    f'{key}="{value}"'
                    for key, value in sorted(sample.labels.items())
                    if value and not key.startswith("otel_scope")
                ]
                found[sample.name + ("{" + ",".join(labels) + "}" if labels else "")] = sample.value
        return found

    def wait_for(self, name: str, value: float, timeout: float = 60) -> None:
        """Waits until one of its metrics is that high."""
        deadline = time.monotonic() + timeout
        while (found := self.measured().get(name, 0.0)) < value:
            assert time.monotonic() < deadline, (name, found, self.measured(), self.raw[-20:])
            time.sleep(0.05)

    def _find(self, message: str) -> dict[str, Any] | None:
        return next((line for line in self.lines if line.get("message") == message), None)

    def _ended(self) -> bool:
        return self.process.poll() is not None and not self._reader.is_alive()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.raw.append(line)
                if line.startswith("{"):
                    self.lines.append(json.loads(line))
                self._changed.notify_all()


class Client:
    """Sends requests as an exporter of OpenTelemetry does.

    Args:
        protocol: of OTLP.
        address: ``host:port``.
        compressed: with gzip.
        token: a bearer token.
        tls: the CA's file, and the client's certificate and key if it has one.
    """

    def __init__(
        self,
        protocol: Protocol,
        address: str,
        *,
        compressed: bool = False,
        token: str = "",
        tls: tuple[Path, tuple[Path, Path] | None] | None = None,
    ) -> None:
        self._protocol = protocol
        self._compressed = compressed
        self._token = token
        if protocol == "http":
            verify: Any = True
            if tls is not None:
                import ssl

                verify = ssl.create_default_context(cafile=str(tls[0]))
                if tls[1] is not None:
                    verify.load_cert_chain(*map(str, tls[1]))
            scheme = "https" if tls is not None else "http"
            self._http = httpx.Client(base_url=f"{scheme}://{address}", verify=verify, timeout=30)
        else:
            options = [("grpc.max_send_message_length", -1)]
            if tls is None:
                self._channel: Any = grpc.insecure_channel(address, options=options)
            else:
                pair = [path.read_bytes() for path in tls[1][::-1]] if tls[1] is not None else [None, None]
                credentials = grpc.ssl_channel_credentials(tls[0].read_bytes(), *pair)
                self._channel = grpc.secure_channel(address, credentials, options=options)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends its connection."""
        if self._protocol == "http":
            self._http.close()
        else:
            self._channel.close()

    def send(self, signal_name: str, data: bytes) -> Reply:
        """Sends one request."""
        if self._protocol == "http":
            headers = {"content-type": "application/x-protobuf"}
            if self._token:
                headers["authorization"] = f"Bearer {self._token}"
            if self._compressed:
                headers["content-encoding"] = "gzip"
                data = gzip.compress(data)
            found = self._http.post(f"/v1/{signal_name}", content=data, headers=headers)
            return Reply(str(found.status_code), found.content, dict(found.headers))
        metadata = [("authorization", f"Bearer {self._token}")] if self._token else []
        compression = grpc.Compression.Gzip if self._compressed else grpc.Compression.NoCompression
        call = self._channel.unary_unary(SERVICES[signal_name])
        try:
            content = call(data, metadata=metadata, compression=compression, timeout=30)
        except grpc.RpcError as error:
            found: Any = error
            trailing = dict(found.trailing_metadata() or ())
            return Reply(found.code().name, b"", {**trailing, "details": found.details()})
        return Reply("OK", content, {})

    def accept(self, *requests: Iterable[Request]) -> None:
        """Sends requests, which have to be accepted as a whole."""
        for part in requests:
            for request in part:
                reply = self.send(request.signal, request.data)
                assert reply.code in ("200", "OK"), reply
                response = _RESPONSES[request.signal].FromString(reply.content)
                assert not response.HasField("partial_success"), response


class Reply:
    """What came back: the code of either protocol, the body, headers or trailing metadata."""

    def __init__(self, code: str, content: bytes, headers: dict[str, Any]) -> None:
        self.code = code
        self.content = content
        self.headers = headers

    def __repr__(self) -> str:
        return f"Reply({self.code}, {self.content[:200]!r}, {self.headers})"
