"""The heart of a gateway: takes OTLP requests as bytes, keeps what is new of them durably, and answers.

It knows no protocol: the servers hand it what they received. What it has acknowledged is in the spool
of each backend that wants it, whatever happens next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool.spool import Durability
from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.gateway.backends import Backend
from tracelet_otel.gateway.partial_requests import (
    Chosen,
    count_points,
    is_whole,
    partial_logs,
    partial_metrics,
)
from tracelet_otel.gateway.runs import RunEntry, Runs, status_request
from tracelet_otel.gateway.validation import Element, Validated, validate_logs, validate_metrics
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics
from tracelet_otel.semconv import ATTENDANTS

RETRY_S: Final = 5.0
"""How long a sender is asked to wait when a spool is full or something failed."""
Signal = Literal["metrics", "logs", "traces"]
Make = Callable[[Sequence[Chosen], bool], Batch]
_log = get_logger("tracelet_otel.gateway")


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """What became of one request."""

    kind: Literal["accepted", "partial", "invalid", "unavailable", "unauthenticated"]
    """``accepted``: all is durable. ``partial``: all except what is refused for ever. ``invalid``: all is
    refused for ever. ``unavailable``: the sender should repeat the whole request; nothing is kept twice.
    ``unauthenticated``: the sender may not send."""
    message: str = ""
    rejected: int = 0
    """Data points or records that are refused for ever."""
    retry_after: float = 0.0
    """Seconds."""


ACCEPTED: Final = IntakeResult("accepted")


@dataclass(slots=True)
class Tally:
    """What came, since the start."""

    points: int = 0
    records: int = 0
    rejected_points: int = 0
    rejected_records: int = 0
    repeated: Counter[str] = field(default_factory=Counter[str])
    """Data points and records that a backend had already, by backend."""


class Intake:
    """Takes requests. Used by any number of threads.

    What a backend's spool has no room for is sent again by its sender, and every backend waits for that one.
    If the spool is not to survive a loss of power, it is dropped there instead, and counted.

    Args:
        backends: where everything is delivered.
        runs: that are open and have ended; changed by this alone.
        media: folders or URIs below which payloads over 1 MiB may lie that records name. None: anywhere, for
            senders that could read it themselves.
    """

    def __init__(
        self, backends: Sequence[Backend], runs: Runs, *, media: tuple[str, ...] | None = ()
    ) -> None:
        self.backends = list(backends)
        self.runs = runs
        self.tally = Tally()
        self._media = media
        self._lock = threading.Lock()

    def take(self, signal: Signal, data: bytes, source: str = "") -> IntakeResult:
        """Takes a request; never raises. Spans are accepted and not kept: no tracker takes them.

        Args:
            signal: what it is of.
            data: the protobuf message.
            source: who sends, see :meth:`~tracelet_otel.delivery.delivery.Delivery.counts_of`.
        """
        try:
            result = self._take(signal, data, source)
        except PermanentError as error:
            result = IntakeResult("invalid", str(error))
        except Exception as error:  # whatever it is, the sender keeps the data
            _log.exception("a %s request failed", signal)
            result = _unavailable(f"the gateway failed: {error!r}"[:500])
        message = result.message[:1000]
        if result.kind in ("invalid", "partial"):
            place = f"{signal} {message}"[:200]
            log_once(place, logging.WARNING, "%s refused for ever: %s", signal, message)
        elif result.kind == "unavailable":
            log_once(f"unavailable {signal}", logging.ERROR, "%s not taken now: %s", signal, message)
        return result

    def tick(self) -> None:
        """Does what is due: closes silent runs, forgets old ones. To be called every second or so."""
        with self._lock:
            silent = self.runs.silent()
        for entry in silent:
            _log.warning("run %s was not heard of: it is taken as killed", entry.info.id)
            # The same time at each attempt: what a backend has of it already is not kept twice.
            entry.time_unix_nano = entry.time_unix_nano if entry.status else time.time_ns()
            entry.status = "killed"
            status = status_request(entry.info, entry.status, entry.time_unix_nano, inferred=True)
            result = self.take("logs", status)
            if result.kind != "accepted":
                _log.error("run %s cannot be closed now: %s", entry.info.id, result.message)
        with self._lock:
            for run_id in self.runs.forget():
                for backend in self.backends:
                    backend.deduplicator.forget(run_id)
            self.runs.save()

    def _take(self, signal: Signal, data: bytes, source: str) -> IntakeResult:
        if signal == "traces":
            try:
                ExportTraceServiceRequest.FromString(data)
            except DecodeError as error:
                raise PermanentError(f"not an OTLP traces request: {error}") from error
            return ACCEPTED
        cut: Callable[[Sequence[Chosen]], Message]
        if signal == "metrics":
            metrics = parse_metrics(data)
            validated, cut = validate_metrics(metrics), partial(partial_metrics, metrics)
        else:
            logs = parse_logs(data)
            validated, cut = validate_logs(logs, self._media), partial(partial_logs, logs)

        def make(chosen: Sequence[Chosen], is_all: bool) -> Batch:
            piece = data if is_all else cut(chosen).SerializeToString()
            elements = [element for element, _ in chosen]
            return Batch(
                metrics=piece if signal == "metrics" else None,
                logs=piece if signal == "logs" else None,
                points=count_points(chosen),
                records=sum(one.record is not None and one.kind not in ATTENDANTS for one in elements),
                size=len(piece),
                ends=any(element.kind == "status" for element in elements),
                source=source,
                run=elements[0].run_id,
                keys=tuple((element.key, parts) for element, parts in chosen),
            )

        with self._lock:
            if signal == "metrics":
                self.tally.points += validated.points
                self.tally.rejected_points += validated.rejected_points
            else:
                self.tally.records += len(validated.elements) + validated.rejected + validated.repeated
                self.tally.rejected_records += validated.rejected
            problem = self._keep(validated, make)
        if problem:
            return _unavailable(problem)
        for backend in self.backends:
            # Also when all of it was known: it may be on its way to the disk in another thread.
            if backend.spool.durability is Durability.DISK:
                backend.delivery.sync()
        return (
            IntakeResult("partial", validated.message, validated.rejected) if validated.rejected else ACCEPTED
        )

    def _keep(self, validated: Validated, make: Make) -> str:
        """Appends what is new to every backend's spool; what went wrong, if something did."""
        problem = ""
        known: list[Chosen] | None = None
        batches: list[tuple[list[Chosen], Batch]] = []
        for backend in self.backends:
            chosen = self._choose(backend, validated)
            if chosen != known:  # backends mostly get the same: it is encoded once
                known, batches = chosen, _by_run(validated, chosen, make)
            for members, batch in batches:
                try:
                    backend.delivery.put(batch)
                except OSError as error:
                    if backend.spool.durability is Durability.DISK:
                        problem = f"{backend.delivery.name}: {error}"
                        break
                    backend.delivery.drop(batch, str(error))
                for element, parts in members:
                    backend.deduplicator.add(element.run_id, element.key, parts)
        if problem:  # the runs are not silent: their sender tries again
            for run_id in {element.run_id for element in validated.elements if element.kind != "status"}:
                self.runs.hear(run_id)
        else:
            problem = self._close_late(self.runs.note(validated.elements, validated.resources))
        self.runs.save()
        return problem

    def _choose(self, backend: Backend, validated: Validated) -> list[Chosen]:
        chosen: list[Chosen] = []
        for element in validated.elements:
            if not backend.delivery.route.takes(element.kind, element.tag):
                continue
            parts = backend.deduplicator.missing(element)
            if parts is None or self._is_stale(element):
                self.tally.repeated[backend.delivery.name] += 1
            else:
                chosen.append((element, parts))
        return chosen

    def _is_stale(self, element: Element) -> bool:
        """Whether it is the end of an attempt that another one followed: it came before."""
        if element.kind != "status" or element.record is None:
            return False
        entry = self.runs.get(element.run_id)
        return entry is not None and element.record.time_unix_nano < entry.began

    def _close_late(self, late: Iterable[RunEntry]) -> str:
        """Says again how runs ended of which a value came late, after a restart."""
        for entry in late:
            data = status_request(entry.info, entry.status, time.time_ns(), inferred=False)
            for backend in self.backends:
                try:
                    backend.delivery.put(Batch(logs=data, size=len(data), ends=True))
                except OSError as error:
                    return f"{backend.delivery.name}: {error}"
        return ""


def _by_run(validated: Validated, chosen: list[Chosen], make: Make) -> list[tuple[list[Chosen], Batch]]:
    """A batch for each run, so that a bad run costs no other. ``make`` is told whether it gets everything."""
    runs: dict[str, list[Chosen]] = {}
    for one in chosen:
        runs.setdefault(one[0].run_id, []).append(one)
    is_all = (
        len(runs) == 1
        and not validated.rejected
        and not validated.repeated
        and len(chosen) == len(validated.elements)
        and all(map(is_whole, chosen))
    )
    return [(members, make(members, is_all)) for members in runs.values()]


def _unavailable(message: str) -> IntakeResult:
    return IntakeResult("unavailable", message, retry_after=RETRY_S)


def otlp_response(signal: Signal, result: IntakeResult) -> Any:
    """OTLP's response to what was taken, in whole or in part."""
    if signal == "traces":
        return ExportTraceServiceResponse()
    response = ExportMetricsServiceResponse() if signal == "metrics" else ExportLogsServiceResponse()
    if result.kind == "partial":
        response.partial_success.error_message = result.message
        field = "rejected_data_points" if signal == "metrics" else "rejected_log_records"
        setattr(response.partial_success, field, result.rejected)
    return response
