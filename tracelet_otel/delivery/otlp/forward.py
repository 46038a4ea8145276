"""Backend ``otlp``: everything to an OpenTelemetry Collector or any other receiver of OTLP.

Different from the OTLP specification where that would lose data: what a receiver denies after it has taken
some (a token expired) is kept and tried again, and what it finds too large is cut and sent again.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.delivery.otlp.client import Answer, DeniedError, MissingError, OtlpClient, TooLargeError
from tracelet_otel.delivery.otlp.settings import GRPC, HTTP, PREFIX, Receiver, resolve
from tracelet_otel.delivery.spool.media import file_size, inline, mentions_media
from tracelet_otel.foundation.errors import DeliveryError, PermanentError, TransientError
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.otlp.json import Signal
from tracelet_otel.otlp.request_splitting import halve, is_counted, logged_points, pack
from tracelet_otel.otlp.traversal import log_records
from tracelet_otel.settings import ConfigurationError

NAMES: Final[Mapping[str, str]] = {
    "otlp": "",
    "otlp_proto_grpc": GRPC,
    "otlp_proto_http": HTTP,
}
"""Names of the backend, each with the protocol that it fixes."""
MOST_BYTES: Final[Mapping[str, int]] = {
    GRPC: 3_500_000,
    HTTP: 16_000_000,
}
"""Bytes of a request before compression. By default gRPC servers take 4 MiB and the Collector 20 MiB by HTTP.
A payload from a file goes into its event if it fits."""
LEAST_BYTES: Final = 16 * 1024
"""A request of this size that is still refused as too large is not cut further."""
DENIED_RETRY_S: Final = 30.0
"""Between two attempts while the receiver denies us."""
MOST_REASONS: Final = 20
RESOURCE_BYTES: Final = 4096
"""What the attributes of the resource add to a request, about."""
_REQUESTS: Final[Mapping[Signal, Any]] = {
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}


class Forward:
    """A destination that sends OTLP on; see :class:`~tracelet_otel.delivery.destination.Destination`.

    Args:
        name: of :data:`NAMES`.
        options: of :data:`~tracelet_otel.delivery.otlp.settings.OPTIONS`.

    Raises:
        ConfigurationError: an option or a variable is wrong, or gRPC is not installed.
    """

    takes_otlp = True

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name = name
        self._receivers = resolve(options, protocol=NAMES[name])
        uses_grpc = any(item.protocol == GRPC for item in self._receivers.values())
        if uses_grpc and not (importlib.util.find_spec("grpc") and importlib.util.find_spec("google.rpc")):
            raise ConfigurationError(
                f"backend {name!r} needs gRPC: pip install 'tracelet-otel[otlp]', "
                f"or set {PREFIX}PROTOCOL={HTTP}"
            )
        self._clients: dict[Signal, OtlpClient] = {}
        self._limits = {signal: MOST_BYTES[item.protocol] for signal, item in self._receivers.items()}
        self._reached = False
        self._reasons: dict[str, None] = {}
        self._batch: Batch | None = None
        self._pieces: deque[tuple[Signal, bytes]] = deque()
        self._refused = Receipt()

    def load(self) -> None:
        """Imports the clients and reads certificates."""
        if self._clients:
            return
        for protocol in {item.protocol for item in self._receivers.values()}:
            receivers: dict[Signal, Receiver] = {
                signal: item for signal, item in self._receivers.items() if item.protocol == protocol
            }
            if protocol == GRPC:
                from tracelet_otel.delivery.otlp.grpc import GrpcClient as Client
            else:
                from tracelet_otel.delivery.otlp.http import HttpClient as Client
            self._clients.update(dict.fromkeys(receivers, Client(receivers)))

    def connect(self) -> None:
        """Sends an empty request, which a receiver that works and accepts us takes.

        Raises:
            TransientError: it cannot be reached.
            PermanentError: it is not a receiver of OTLP, or denies us.
        """
        self.load()
        try:
            self._ask()
        except DeliveryError:
            self.close()  # if this is never tried again, nothing else closes it
            raise

    def _ask(self) -> None:
        try:
            self._clients["metrics"].send_metrics(b"")
        except MissingError:  # it may be one of logs alone
            self._clients["logs"].send_logs(b"")
        except (TransientError, DeniedError):
            raise
        except PermanentError as error:  # not every receiver knows an answer to nothing
            get_logger().debug("%s: an empty request: %s", self.name, error)

    def send(self, batch: Batch) -> Receipt:
        """Sends a batch, in several requests if it is large.

        Called again with the same batch after a transient error, it goes on where it was.

        Raises:
            TransientError: the receiver asks to send it again, or denies us.
        """
        if self._batch is not batch:
            self._batch, self._refused, self._pieces = batch, Receipt(), deque(self._cut(batch))
        while self._pieces:
            self._send_next()
        self._batch = None
        return Receipt(batch.points - self._refused.points, batch.records - self._refused.records)

    def close(self) -> None:
        """Ends the connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def locations(self) -> list[str]:
        """The address of the receiver, once it has taken data."""
        return [self._receivers["metrics"].endpoint] if self._reached else []

    def refusals(self) -> str:
        """Why data was last refused."""
        return next(reversed(self._reasons), "")

    def reasons(self) -> list[str]:
        """Why data was refused, the last reason last."""
        return list(self._reasons)

    def _cut(self, batch: Batch) -> Iterator[tuple[Signal, bytes]]:
        """The requests of a batch. Payloads in files are read one request at a time, when it is sent."""
        if isinstance(batch.metrics, bytes):
            yield "metrics", batch.metrics
        if isinstance(batch.logs, bytes) and mentions_media(batch.logs):
            limit = self._limits["logs"]
            request = ExportLogsServiceRequest.FromString(batch.logs)
            for part in pack(request, limit, lambda record: _weight(record, limit)):
                yield "logs", part.SerializeToString()
        elif isinstance(batch.logs, bytes):
            yield "logs", batch.logs

    def _send_next(self) -> None:
        """Sends the first of the pieces and removes it, or puts its halves in its place."""
        signal, data = self._pieces[0]
        if len(data) > self._limits[signal] and self._halve():
            return
        whole, left_out = data, 0
        if signal == "logs" and mentions_media(data):
            whole, left_out = self._with_media(data)
        try:
            answer = self._request(signal, whole)
        except TooLargeError as error:
            # Half of what was refused is tried from now on: a receiver is not asked twice.
            self._limits[signal] = max(LEAST_BYTES, min(self._limits[signal], len(whole) // 2))
            if len(whole) > LEAST_BYTES and self._halve():
                return
            if len(whole) > max(len(data), self._limits[signal]):
                # One event with its file, which the limit keeps out from now on.
                self._note(str(error))
                return
            answer = self._refuse(str(error))
        except PermanentError as error:
            answer = self._refuse(str(error))
        self._pieces.popleft()
        self._refused.records += left_out
        if answer is not None:
            self._reached = True
            self._count_rejected(signal, data, answer)

    def _request(self, signal: Signal, data: bytes) -> Answer:
        client = self._clients[signal]
        try:
            return client.send_metrics(data) if signal == "metrics" else client.send_logs(data)
        except DeniedError as error:
            raise TransientError(str(error), DENIED_RETRY_S) from error

    def _halve(self) -> bool:
        """Puts the halves of the first piece in its place, if it has halves."""
        signal, data = self._pieces[0]
        halves = halve(_REQUESTS[signal].FromString(data))
        if halves is None:
            return False
        self._pieces.popleft()
        self._pieces.extendleft((signal, half.SerializeToString()) for half in reversed(halves))
        return True

    def _with_media(self, data: bytes) -> tuple[bytes, int]:
        """The request with the payloads that are files of this machine; how many records lack theirs."""
        request = ExportLogsServiceRequest.FromString(data)
        limit, left_out = self._limits["logs"], 0
        for record in log_records(request):
            size = file_size(record)
            try:
                if size is None:
                    continue
                if size > limit - request.ByteSize():
                    raise OSError(
                        f"{size:,} bytes in a file of this machine do not fit into a request of {limit:,}; "
                        "set TRACELET_MEDIA_DIR to a URL that the receiver can read"
                    )
                inline(record)
            except OSError as error:
                self._note(f"a record {record.event_name} is sent without its payload: {error}")
                left_out += is_counted(record)
        return request.SerializeToString(), left_out

    def _count_rejected(self, signal: Signal, data: bytes, answer: Answer) -> None:
        """Counts what an answer rejects, and logs its message."""
        message = answer.message or "it gives no reason"
        if answer.rejected <= 0:
            if answer.message:
                self._warn("a warning of the receiver", answer.message)
            return
        held = sorted(_held(signal, data), reverse=True)
        what = "data points" if signal == "metrics" else "records"
        self._note(f"{answer.rejected} of {len(held)} {what} rejected: {message}")
        # It does not say which ones: at worst those that hold most points.
        self._count_refused(signal, sum(held[: answer.rejected]))

    def _refuse(self, reason: str) -> None:
        """Counts the first piece as refused."""
        signal, data = self._pieces[0]
        self._note(reason)
        self._count_refused(signal, sum(_held(signal, data)))

    def _count_refused(self, signal: Signal, number: int) -> None:
        if signal == "metrics":
            self._refused.points += number
        else:
            self._refused.records += number

    def _note(self, reason: str) -> None:
        self._reasons.pop(reason, None)
        self._reasons[reason] = None
        if len(self._reasons) > MOST_REASONS:
            del self._reasons[next(iter(self._reasons))]
        self._warn("not everything was taken", reason)

    def _warn(self, what: str, message: str) -> None:
        log_once(f"{self.name} {message}", logging.WARNING, "%s: %s: %s", self.name, what, message)


def _weight(record: LogRecord, limit: int) -> int:
    size = file_size(record) or 0
    return record.ByteSize() + (size if size <= limit else 0) + RESOURCE_BYTES


def _held(signal: Signal, data: bytes) -> list[int]:
    """For each data point or record of a request, how many logged points or records it counts for."""
    if signal == "metrics":
        return logged_points(ExportMetricsServiceRequest.FromString(data))
    return [int(is_counted(record)) for record in log_records(ExportLogsServiceRequest.FromString(data))]
