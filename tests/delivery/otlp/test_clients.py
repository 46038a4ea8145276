"""The clients of OTLP against real receivers: what arrives, and what each answer becomes."""

from __future__ import annotations

import datetime
import logging
import ssl
import subprocess
import threading
from collections.abc import Iterator
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tests.delivery.otlp.receiver import PROTOCOLS, Inbox, Protocol, Reply, receiver
from tests.delivery.spool.test_spool import metrics
from tracelet_otel.delivery.otlp import settings as otlp_settings
from tracelet_otel.delivery.otlp.client import Answer, DeniedError, MissingError, OtlpClient, TooLargeError
from tracelet_otel.delivery.otlp.grpc import GrpcClient
from tracelet_otel.delivery.otlp.http import HttpClient
from tracelet_otel.foundation.errors import PermanentError, TransientError


def client(protocol: Protocol, endpoint: str, **options: Any) -> OtlpClient:
    connections = otlp_settings.resolve({"endpoint": endpoint, "protocol": protocol, **options})
    return GrpcClient(connections) if protocol == "grpc" else HttpClient(connections)


def points() -> bytes:
    data = metrics("loss", range(3)).metrics
    assert isinstance(data, bytes)
    return data


def records() -> bytes:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add()
    record.body.string_value = "text"
    return request.SerializeToString()


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> Protocol:
    return request.param


@pytest.fixture
def inbox(protocol: Protocol) -> Iterator[Inbox]:
    with receiver(protocol) as inbox:
        yield inbox


@pytest.fixture
def sender(protocol: Protocol, inbox: Inbox) -> Iterator[OtlpClient]:
    made = client(protocol, inbox.endpoint, timeout=5)
    yield made
    made.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_request_arrives_as_it_is_with_its_headers(
    protocol: Protocol, inbox: Inbox, compression: str
) -> None:
    sender = client(protocol, inbox.endpoint, compression=compression, headers={"X-Team": "blue"})
    assert sender.send_metrics(points()) == Answer()
    assert sender.send_logs(records()) == Answer()
    sender.close()
    assert [item.SerializeToString() for item in inbox.metrics] == [points()]
    assert [item.SerializeToString() for item in inbox.logs] == [records()]
    for headers in inbox.headers:
        assert headers["x-team"] == "blue"
        assert headers["user-agent"].startswith("tracelet-otel/")
        if protocol == "http/protobuf":
            assert headers.get("content-encoding", "none") == compression


def test_a_partial_success_is_told(sender: OtlpClient, inbox: Inbox) -> None:
    inbox.answer = lambda request, size: Reply(message="too old", rejected=2)
    assert sender.send_metrics(points()) == Answer(2, "too old")
    assert sender.send_logs(records()) == Answer(2, "too old")


@pytest.mark.parametrize(
    ("reply", "error", "retry_after"),
    [
        (Reply("unavailable", "later"), TransientError, None),
        (Reply("unavailable", "later", retry_after=7), TransientError, 7.0),
        (Reply("busy", "later", retry_after=3), TransientError, 3.0),
        (Reply("unavailable", "later", retry_after=100_000), TransientError, 600.0),
        (Reply("too large", "message larger than max"), TooLargeError, None),
        (Reply("invalid", "no such tenant"), PermanentError, None),
        (Reply("broken", "panic"), PermanentError, None),
        (Reply("denied", "bad token"), DeniedError, None),
        (Reply("missing", "no such service"), MissingError, None),
    ],
)
def test_an_answer_becomes_the_error_that_the_specification_says(
    sender: OtlpClient, inbox: Inbox, reply: Reply, error: type[Exception], retry_after: float | None
) -> None:
    inbox.answer = lambda request, size: reply
    with pytest.raises(error, match=reply.message) as caught:
        sender.send_metrics(points())
    assert type(caught.value) is error
    assert getattr(caught.value, "retry_after", None) == retry_after


def test_a_receiver_that_hangs_or_is_away_is_transient(protocol: Protocol, inbox: Inbox) -> None:
    gate = threading.Event()
    inbox.answer = lambda request, size: Reply(wait_for=gate)
    sender = client(protocol, inbox.endpoint, timeout=0.2)
    with pytest.raises(TransientError):
        sender.send_metrics(points())
    gate.set()
    sender.close()
    sender = client(protocol, "http://127.0.0.1:9", timeout=2)
    with pytest.raises(TransientError):
        sender.send_logs(records())
    sender.close()


def test_a_grpc_server_refuses_what_is_beyond_its_own_limit() -> None:
    with receiver("grpc", max_bytes=100) as inbox:
        sender = client("grpc", inbox.endpoint)
        with pytest.raises(TooLargeError, match="larger than max"):
            sender.send_metrics(points())
        sender.close()


def test_http_asks_for_no_log_line_of_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with receiver("http/protobuf") as inbox:
        sender = client("http/protobuf", inbox.endpoint)
        sender.send_metrics(points())
        sender.close()
    assert caplog.records == []


class Fixed(BaseHTTPRequestHandler):
    """Answers everything alike."""

    protocol_version = "HTTP/1.1"
    status = 200
    body = b""
    fields: dict[str, str] = {}  # noqa: RUF012

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.status)
        for name, value in self.fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def fixed(status: int, body: bytes = b"", **fields: str) -> ThreadingHTTPServer:
    members = {
        "status": status,
        "body": body,
        "fields": {name.replace("_", "-"): value for name, value in fields.items()},
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Fixed,), members))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def answer_of(server: ThreadingHTTPServer, **options: Any) -> Answer:
    sender = client("http/protobuf", f"http://127.0.0.1:{server.server_port}", **options)
    try:
        return sender.send_metrics(points())
    finally:
        sender.close()
        server.shutdown()
        server.server_close()


def test_answers_of_other_http_servers() -> None:
    assert answer_of(fixed(200, b"{}", Content_Type="application/json")) == Answer()
    assert answer_of(fixed(204)) == Answer()
    with pytest.raises(PermanentError, match="a web page"):
        answer_of(fixed(200, b"<html>log in", Content_Type="text/html; charset=utf-8"))
    with pytest.raises(PermanentError, match="a redirect to /login"):
        answer_of(fixed(302, Location="/login"))
    with pytest.raises(PermanentError, match="500 Internal Server Error: no space left"):
        answer_of(fixed(500, b"no space\nleft", Content_Type="text/plain"))


def test_retry_after_may_be_a_date() -> None:
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60)
    with pytest.raises(TransientError) as caught:
        answer_of(fixed(503, Retry_After=format_datetime(later, usegmt=True)))
    assert caught.value.retry_after == pytest.approx(60, abs=5)
    with pytest.raises(TransientError) as caught:
        answer_of(fixed(503, Retry_After="soon"))
    assert caught.value.retry_after is None


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates of a server and a client by it."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem"),
        *("-days", "2", "-subj", "/CN=test authority"),
    )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr"),
            *("-subj", f"/CN={name}"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", "2", "-extfile", "names"),
        )
    return folder


def test_http_over_tls_with_a_client_certificate(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fixed)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *arguments: None  # pyright: ignore[reportAttributeAccessIssue]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    endpoint = f"https://127.0.0.1:{server.server_port}"
    outcomes: list[object] = []
    try:
        for names in (
            {},
            {"CERTIFICATE": "ca.pem"},
            {"CLIENT_KEY": "client.key", "CLIENT_CERTIFICATE": "client.pem"},
        ):
            for name, file in names.items():
                monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", str(certificates / file))
            sender = client("http/protobuf", endpoint, timeout=5)
            try:
                outcomes.append(sender.send_metrics(points()))
            except TransientError as error:
                outcomes.append(type(error))
            finally:
                sender.close()
    finally:
        server.shutdown()
        server.server_close()
    assert outcomes == [TransientError, TransientError, Answer()]
