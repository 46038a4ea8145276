"""The heart of a gateway: takes OTLP requests as bytes, keeps what is new of them durably, and answers.

It knows no protocol: the servers hand it what they received. What it has acknowledged is in the spool
of each backend that wants it, whatever happens next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tracelet_otel.delivery.destination import Batch, Keys
from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.gateway.backends import Backend
from tracelet_otel.gateway.intake_result import ACCEPTED, IntakeResult, invalid, unavailable
from tracelet_otel.gateway.partial_requests import (
    Chosen,
    by_run,
    count_points,
    partial_logs,
    partial_metrics,
)
from tracelet_otel.gateway.runs import RunEntry, Runs, status_request
from tracelet_otel.gateway.validation import Element, Validated, validate_logs, validate_metrics
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics, presumed_run, run_info
from tracelet_otel.semconv import ATTENDANTS, RUN_STATUS, STATUS_INFERRED

RETRY_S: Final = 5.0
"""How long a sender is asked to wait when a spool is full or something failed."""
_log = get_logger("tracelet_otel.gateway")


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

    Args:
        backends: where everything is delivered.
        runs: that are open and have ended; changed by this alone.
        drops: whether what a backend's spool has no room for is dropped there, and counted. Else the sender
            is asked to send it again, and every backend waits for that one.
        fsync: whether an answer waits until the disk has what was kept. Without, a process that is killed
            loses nothing; a machine that loses power may.
        media: folders or URIs below which payloads over 1 MiB may lie that records name. None: anywhere, for
            senders that could read it themselves.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        runs: Runs,
        *,
        fsync: bool = True,
        drops: bool = False,
        media: tuple[str, ...] | None = (),
    ) -> None:
        self.backends = list(backends)
        self.runs = runs
        self.tally = Tally()
        self._fsync = fsync
        self._drops = drops
        self._media = media
        self._lock = threading.Lock()

    def metrics(self, data: bytes, source: str = "") -> IntakeResult:
        """Takes a metrics request; never raises.

        Args:
            data: the protobuf message.
            source: who sends, see :meth:`~tracelet_otel.delivery.delivery.Delivery.counts_of`.
        """
        return self._answered("metrics", lambda: self._metrics(data, source))

    def logs(self, data: bytes, source: str = "") -> IntakeResult:
        """Takes a logs request, likewise."""
        return self._answered("logs", lambda: self._logs(data, source))

    def traces(self, data: bytes) -> IntakeResult:
        """Accepts a request of spans and keeps none: no tracker takes them."""
        return self._answered("traces", lambda: self._traces(data))

    def tick(self) -> None:
        """Does what is due: closes silent runs, forgets old ones. To be called every second or so."""
        with self._lock:
            silent = [self.runs.get(run_id) for run_id in self.runs.silent()]
        for entry in silent:
            if entry is None:
                continue
            _log.warning("run %s was not heard of: it is taken as killed", entry.info.id)
            # The same time at each attempt: what a backend has of it already is not kept twice.
            entry.time_unix_nano = entry.time_unix_nano if entry.status else time.time_ns()
            entry.status = "killed"
            answer = self.logs(status_request(entry.info, entry.status, entry.time_unix_nano, inferred=True))
            if answer.kind != "accepted":
                _log.error("run %s cannot be closed now: %s", entry.info.id, answer.message)
        with self._lock:
            for run_id in self.runs.forget():
                for backend in self.backends:
                    backend.deduplicator.forget(run_id)
            self.runs.save()

    def _answered(self, signal: str, take: Callable[[], IntakeResult]) -> IntakeResult:
        try:
            answer = take()
        except PermanentError as error:
            answer = invalid(str(error))
        except Exception as error:  # whatever it is, the sender keeps the data
            _log.exception("a %s request failed", signal)
            answer = unavailable(f"the gateway failed: {error!r}"[:500], RETRY_S)
        if answer.kind in ("invalid", "partial"):
            log_once(
                f"{signal} {answer.message}"[:200],
                logging.WARNING,
                "%s refused for ever: %s",
                signal,
                answer.message[:1000],
            )
        elif answer.kind == "unavailable":
            log_once(f"unavailable {signal}", logging.ERROR, "%s not taken now: %s", signal, answer.message)
        return answer

    def _traces(self, data: bytes) -> IntakeResult:
        try:
            ExportTraceServiceRequest.FromString(data)
        except DecodeError as error:
            raise PermanentError(f"not an OTLP traces request: {error}") from error
        return ACCEPTED

    def _metrics(self, data: bytes, source: str) -> IntakeResult:
        request = parse_metrics(data)
        validated = validate_metrics(request)

        def make(chosen: Sequence[Chosen], is_all: bool) -> Batch:
            piece = data if is_all else partial_metrics(request, chosen).SerializeToString()
            return Batch(
                metrics=piece,
                points=count_points(chosen),
                size=len(piece),
                source=source,
                run=chosen[0][0].run_id,
                keys=_keys(chosen),
            )

        with self._lock:
            self.tally.points += validated.points
            self.tally.rejected_points += validated.rejected_points
            problem = self._keep(validated, make)
        return self._answer(validated, problem)

    def _logs(self, data: bytes, source: str) -> IntakeResult:
        request = parse_logs(data)
        validated = validate_logs(request, self._media)

        def make(chosen: Sequence[Chosen], is_all: bool) -> Batch:
            piece = data if is_all else partial_logs(request, chosen).SerializeToString()
            kinds = [element.kind for element, _ in chosen]
            records = sum(1 for kind in kinds if kind not in ATTENDANTS)
            return Batch(
                logs=piece,
                records=records,
                size=len(piece),
                ends="status" in kinds,
                source=source,
                run=chosen[0][0].run_id,
                keys=_keys(chosen),
            )

        with self._lock:
            self.tally.records += len(validated.elements) + validated.rejected + validated.repeated
            self.tally.rejected_records += validated.rejected
            problem = self._keep(validated, make)
        return self._answer(validated, problem)

    def _answer(self, validated: Validated, problem: str) -> IntakeResult:
        if problem:
            return unavailable(problem, RETRY_S)
        if self._fsync:  # also when all of it was known: it may be on its way to the disk in another thread
            for backend in self.backends:
                backend.delivery.sync()
        if validated.rejected:
            return IntakeResult("partial", validated.rejected, validated.message)
        return ACCEPTED

    def _keep(self, validated: Validated, make: Callable[[Sequence[Chosen], bool], Batch]) -> str:
        """Appends what is new to every backend's spool; what went wrong, if something did."""
        problem = ""
        known: list[Chosen] | None = None
        batches: list[tuple[list[Chosen], Batch]] = []
        for backend in self.backends:
            chosen = self._choose(backend, validated)
            if chosen != known:  # backends mostly get the same: it is encoded once
                known, batches = chosen, by_run(validated, chosen, make)
            for members, batch in batches:
                try:
                    backend.delivery.put(batch)
                except OSError as error:
                    if not self._drops:
                        problem = f"{backend.delivery.name}: {error}"
                        break
                    backend.delivery.drop(batch, str(error))
                for element, parts in members:
                    backend.deduplicator.add(element, parts)
        if not problem:
            late = self._note_runs(validated)
            problem = self._close_late(late)
        else:  # they are not silent: their sender tries again
            for run_id in {element.run_id for element in validated.elements if element.kind != "status"}:
                self.runs.hear(run_id)
        self.runs.save()
        return problem

    def _choose(self, backend: Backend, validated: Validated) -> list[Chosen]:
        chosen: list[Chosen] = []
        route = backend.delivery.route
        for element in validated.elements:
            if not route.takes(element.kind, element.tag):
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

    def _note_runs(self, validated: Validated) -> dict[str, RunEntry]:
        """Tells the runs what came; those that had ended before, and whose trackers do not know it."""
        late: dict[str, RunEntry] = {}
        valued: set[str] = set()
        for element in validated.elements:
            record = element.record
            if record is not None and record.kind == "run":
                self.runs.run(run_info(record), record.time_unix_nano)
            elif record is not None and record.kind == "status":
                inferred = record.attributes.get(STATUS_INFERRED) is True
                status = str(record.attributes[RUN_STATUS])
                self.runs.status(element.run_id, status, record.time_unix_nano, inferred=inferred)
                late.pop(element.run_id, None)
            elif record is None and not element.points:
                self.runs.hear(element.run_id)
            elif element.run_id not in valued:
                valued.add(element.run_id)
                info = presumed_run(element.run_id, [validated.resources[element.place[0]]])
                entry = self.runs.value(element.run_id, info)
                if entry.restored:
                    late[element.run_id] = entry
        return late

    def _close_late(self, late: dict[str, RunEntry]) -> str:
        """Says again how runs ended of which a value came late, after a restart."""
        for entry in late.values():
            data = status_request(entry.info, entry.status, time.time_ns(), inferred=False)
            for backend in self.backends:
                try:
                    backend.delivery.put(Batch(logs=data, size=len(data), ends=True))
                except OSError as error:
                    return f"{backend.delivery.name}: {error}"
        return ""


def _keys(chosen: Sequence[Chosen]) -> Keys:
    return tuple((item.key, parts) for item, parts in chosen)
