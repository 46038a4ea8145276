"""Real OTLP receivers on the loopback: gRPC and HTTP. They keep what arrives and
answer as they are told to.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tracelet_otel.otlp.decoding import decode_attributes, decode_series
from tracelet_otel.otlp.records import Point

Protocol = Literal["grpc", "http/protobuf"]
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http/protobuf")

_STATUSES = {
    "unavailable": (503, grpc.StatusCode.UNAVAILABLE),
    "busy": (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "too large": (413, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "invalid": (400, grpc.StatusCode.INVALID_ARGUMENT),
    "broken": (500, grpc.StatusCode.INTERNAL),
    "denied": (401, grpc.StatusCode.UNAUTHENTICATED),
    "missing": (404, grpc.StatusCode.UNIMPLEMENTED),
}


@dataclass
class Reply:
    """What a receiver answers in place of a plain success."""

    kind: str = "ok"
    """Of the statuses above."""
    message: str = ""
    retry_after: float | None = None
    rejected: int = 0
    keeps: bool = False
    """Whether the request is kept all the same."""
    wait_for: threading.Event | None = None


@dataclass
class Inbox:
    """What arrived."""

    requests: list[ExportMetricsServiceRequest | ExportLogsServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Bytes of every request, those that were refused too."""
    endpoint: str = ""
    answer: Callable[[Any, int], Reply] = lambda request, size: Reply()
    """From a request that holds something, and its size in bytes."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, request: Any, size: int, headers: dict[str, str]) -> Reply:
        empty = not request.ByteSize()
        reply = self.answer(request, size) if not empty else self.answer_to_nothing(request)
        if reply.wait_for is not None:
            reply.wait_for.wait(60)
        with self.changed:
            self.headers.append(headers)
            if not empty:
                self.sizes.append(size)
                if reply.kind == "ok" or reply.keeps:
                    self.requests.append(request)
            self.changed.notify_all()
        return reply

    answer_to_nothing: Callable[[Any], Reply] = lambda request: Reply()
    """To a request that holds nothing."""

    def wait_for(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout)

    @property
    def metrics(self) -> list[ExportMetricsServiceRequest]:
        return [item for item in list(self.requests) if isinstance(item, ExportMetricsServiceRequest)]

    @property
    def logs(self) -> list[ExportLogsServiceRequest]:
        return [item for item in list(self.requests) if isinstance(item, ExportLogsServiceRequest)]

    def points(self) -> dict[str, list[Point]]:
        """Every point by tag (rank n: ``tag/rank_n``), in the order of arrival."""
        found: dict[str, list[Point]] = {}
        for request in self.metrics:
            for series in decode_series(request):
                name = series.tag if not series.rank else f"{series.tag}/rank_{series.rank}"
                found.setdefault(name, []).extend(series.points)
        return found

    def records(self) -> Iterator[tuple[dict[str, Any], LogRecord]]:
        """Every log record with the attributes of its resource."""
        for request in self.logs:
            for resource in request.resource_logs:
                for scope in resource.scope_logs:
                    for record in scope.log_records:
                        yield decode_attributes(resource.resource.attributes), record

    def events(self, kind: str) -> list[LogRecord]:
        """Our events of one kind."""
        return [record for _, record in self.records() if record.event_name == f"tracelet.{kind}"]


@contextmanager
def receiver(protocol: Protocol, *, max_bytes: int = -1) -> Generator[Inbox]:
    """A receiver on a free port."""
    if protocol == "grpc":
        with _grpc_receiver(max_bytes) as inbox:
            yield inbox
    else:
        with _http_receiver() as inbox:
            yield inbox


@contextmanager
def _grpc_receiver(max_bytes: int) -> Generator[Inbox]:
    inbox = Inbox()
    options = [("grpc.max_receive_message_length", max_bytes)] if max_bytes > 0 else []
    server = grpc.server(ThreadPoolExecutor(4), options=options)
    for name, request, response in (
        ("metrics", ExportMetricsServiceRequest, ExportMetricsServiceResponse),
        ("logs", ExportLogsServiceRequest, ExportLogsServiceResponse),
    ):

        def export(data: bytes, context: Any, request: Any = request, response: Any = response) -> Any:
            headers = {key: str(value) for key, value in context.invocation_metadata()}
            message = request.FromString(data)
            reply = inbox.take(message, len(data), headers)
            if reply.kind != "ok":
                _, code = _STATUSES[reply.kind]
                context.set_trailing_metadata(_details(reply, code))
                context.abort(code, reply.message)
            return _response(response, reply)

        service = f"opentelemetry.proto.collector.{name}.v1.{name.capitalize()}Service"
        handler = grpc.unary_unary_rpc_method_handler(
            export,
            request_deserializer=bytes,
            response_serializer=_encoded,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    inbox.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield inbox
    finally:
        server.stop(0).wait()


def _encoded(message: Any) -> bytes:
    return message.SerializeToString()


def _details(reply: Reply, code: grpc.StatusCode) -> tuple[tuple[str, bytes], ...]:
    if reply.retry_after is None:
        return ()
    info = RetryInfo(
        retry_delay=Duration(nanos=int(reply.retry_after % 1 * 1e9), seconds=int(reply.retry_after))
    )
    detail = AnyMessage()
    detail.Pack(info)
    status = Status(code=code.value[0], message=reply.message, details=[detail])
    return (("grpc-status-details-bin", status.SerializeToString()),)


def _response(kind: Any, reply: Reply) -> Any:
    response = kind()
    if reply.rejected or reply.message:
        partial = response.partial_success
        partial.error_message = reply.message
        name = "rejected_data_points" if kind is ExportMetricsServiceResponse else "rejected_log_records"
        setattr(partial, name, reply.rejected)
    return response


@contextmanager
def _http_receiver() -> Generator[Inbox]:
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            metrics = self.path.endswith("/v1/metrics")
            message = (ExportMetricsServiceRequest if metrics else ExportLogsServiceRequest).FromString(body)
            headers = {key.lower(): value for key, value in self.headers.items()} | {":path": self.path}
            reply = inbox.take(message, len(body), headers)
            if reply.kind != "ok":
                status, code = _STATUSES[reply.kind]
                answer = Status(code=code.value[0], message=reply.message).SerializeToString()
            else:
                status = 200
                kind = ExportMetricsServiceResponse if metrics else ExportLogsServiceResponse
                answer = _response(kind, reply).SerializeToString()
            self.send_response(status)
            if reply.retry_after is not None:
                self.send_header("Retry-After", f"{reply.retry_after:g}")
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has gone."""

    server = Server(("127.0.0.1", 0), Handler)
    inbox.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield inbox
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
