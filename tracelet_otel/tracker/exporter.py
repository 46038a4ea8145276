"""From OTLP requests to one tracker: decodes, opens runs, writes, and keeps count."""

from __future__ import annotations

import logging
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.decoding import (
    decode_records,
    decode_series,
    parse_logs,
    parse_metrics,
    plain_series,
    presumed_run,
    resource_run,
    run_info,
    system_points,
)
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series
from tracelet_otel.semconv import ATTENDANTS, RUN_STATUS, STATUS_INFERRED, Status
from tracelet_otel.tracker.companion import Companions
from tracelet_otel.tracker.interface import Outcome, Tracker
from tracelet_otel.tracker.outcome_log import OutcomeLog

_STATUSES: dict[object, Status] = {"finished": "finished", "failed": "failed", "killed": "killed"}
_MOST_CLOSED = 1000
"""How many ended runs are remembered, in case a value of one comes late."""

Resources = Iterable[ResourceMetrics] | Iterable[ResourceLogs]


class KnownRuns(Protocol):
    """What is known of runs besides what one exporter was given, for example by a process before."""

    def describe(self, run_id: str) -> RunInfo | None:
        """The run's description, if there was one."""
        ...

    def is_open(self, run_id: str) -> bool:
        """Whether values of it came, and not yet its end."""
        ...


class TrackerExporter:
    """Writes OTLP requests to one tracker; a :class:`~tracelet_otel.delivery.destination.Destination`.

    Args:
        tracker: the tracker's client; imported and connected at the first write.
        run: the run that metrics of other instruments belong to. None: the run their resource names.
        opens_for_plain: whether such a metric opens a run. Inside the distribution it does not: a
            process that logs nothing must leave no run behind.
        companions: folder for companion files until the tracker has them. None: a temporary one.
        known: runs that are known from elsewhere.
    """

    takes_otlp = True

    def __init__(
        self,
        tracker: Tracker,
        *,
        run: RunInfo | None = None,
        opens_for_plain: bool = False,
        companions: Path | None = None,
        known: KnownRuns | None = None,
    ) -> None:
        self.tracker = tracker
        self._companions = Companions(companions or Path(tempfile.gettempdir(), "tracelet-otel-companions"))
        self._locations: dict[str, str] = {}
        self._log = OutcomeLog(tracker.name)
        self._default = run
        self._opens_for_plain = opens_for_plain
        self._described: dict[str, RunInfo] = {}
        self._open: set[str] = set()
        self._closed: dict[str, tuple[Status, int]] = {}
        """Runs whose end was logged, with its time in nanoseconds since 1970."""
        self._ended: dict[str, None] = {}
        """Runs that were closed, the latest last."""
        self._plain_steps: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._known = known
        self._request: bytes | None = None
        """The request that is being written, or that has to come again after a transient error."""
        self._steps_taken = 0
        self._outcome = Outcome()

    def load(self) -> None:
        """Loads the tracker's library; raises what it raises."""
        self.tracker.load()

    def connect(self) -> None:
        """Connects the tracker; raises what it raises."""
        self.tracker.connect()

    def send(self, batch: Batch) -> Receipt:
        """Writes a batch of OTLP bytes."""
        receipt = Receipt()
        if isinstance(batch.metrics, bytes):
            outcome = self.write_metrics(batch.metrics)
            receipt.points = outcome.accepted
            receipt.rejected += len({problem.name for problem in outcome.rejected})  # of each point one
        if isinstance(batch.logs, bytes):
            outcome = self.write_logs(batch.logs)
            receipt.records = outcome.accepted
            receipt.rejected += len(outcome.rejected)
        return receipt

    def close(self) -> None:
        """Ends the client. Runs are closed by their status records, others stay open."""
        try:
            for run_id in sorted(self._open):
                self._upload_companions(run_id)
        finally:
            self.tracker.close()

    def locations(self) -> list[str]:
        """Where a person finds the runs that were opened here."""
        return list(self._locations.values())

    def refusals(self) -> str:
        """The last reason for which the tracker refused a point or record."""
        return self._log.last_refusal

    def write_metrics(self, data: bytes) -> Outcome:
        """Writes the points of a metrics request; ``accepted`` counts points.

        Raises:
            DeliveryError: as the tracker says; the whole request may be repeated if transient.
        """
        request = parse_metrics(data)
        by_run: defaultdict[str, list[Series]] = defaultdict(list)
        for series in decode_series(request):
            by_run[series.run_id].append(series)
        runs = [partial(self._write_points, *item, request.resource_metrics) for item in by_run.items()]
        others = [partial(self._write_system, request), partial(self._write_plain, request)]
        return self._each(data, [*runs, *others])

    def write_logs(self, data: bytes) -> Outcome:
        """Writes the records of a logs request; ``accepted`` counts records.

        Raises:
            DeliveryError: as the tracker says; the whole request may be repeated if transient.
        """
        request = parse_logs(data)
        resources = request.resource_logs
        return self._each(data, [partial(self._write, one, resources) for one in decode_records(request)])

    def _each(self, data: bytes, steps: Sequence[Callable[[Outcome], None]]) -> Outcome:
        """Takes each step of a request once, also when it comes again after a transient error.

        What an earlier attempt has written would be set aside twice, and cost twice.
        """
        if data is not self._request:
            self._request, self._steps_taken, self._outcome = data, 0, Outcome()
        outcome = self._outcome
        for step in steps[self._steps_taken :]:
            step(outcome)
            self._steps_taken += 1
        self._close_again()
        self._request = None
        self._log.report(outcome)
        return outcome

    def _write_points(
        self, run_id: str, series: Sequence[Series], resources: Resources, outcome: Outcome
    ) -> None:
        self._ensure_open(run_id, resources)
        written = self.tracker.write_points(run_id, series)
        self._set_aside(run_id, written)
        outcome.add(written)

    def _write(self, record: Record, resources: Resources, outcome: Outcome) -> None:
        if record.kind == "run":
            self._described[record.run_id] = run_info(record)
            # One that was overtaken by the run's end describes it; a newer one opens it again.
            if record.time_unix_nano >= self._closed.get(record.run_id, ("finished", 0))[1]:
                self._closed.pop(record.run_id, None)
            self._open_run(record.run_id)
        elif record.kind == "status":
            self._end(record, resources, outcome)
        else:
            self._ensure_open(record.run_id, resources)
            written = self.tracker.write_record(record)
            self._set_aside(record.run_id, written)
            if record.kind in ATTENDANTS:
                written.accepted = 0
            outcome.add(written)

    def _end(self, record: Record, resources: Resources, outcome: Outcome) -> None:
        run_id = record.run_id
        if run_id not in self._open and run_id in self._closed:
            return
        status = _STATUSES.get(record.attributes.get(RUN_STATUS), "finished")
        self._ensure_open(run_id, resources)  # an earlier process may have delivered all but this
        closing = self._close_run(run_id, status)
        closing.accepted = 0  # what it wrote at the end was counted when it came
        outcome.add(closing)
        if record.attributes.get(STATUS_INFERRED) is not True:
            self._closed[run_id] = (status, record.time_unix_nano)
        self._ended[run_id] = self._ended.pop(run_id, None)
        for forgotten in [run for run in self._ended if run not in self._open][:-_MOST_CLOSED]:
            for kept in (self._ended, self._closed, self._described, self._locations, self._plain_steps):
                kept.pop(forgotten, None)

    def _close_run(self, run_id: str, status: Status) -> Outcome:
        self._upload_companions(run_id)
        closing = self.tracker.close_run(run_id, status)
        self._open.discard(run_id)
        return closing

    def _close_again(self) -> None:
        """Closes runs that a late value opened again after their own end."""
        for run_id in self._open & self._closed.keys():
            self._close_run(run_id, self._closed[run_id][0])

    def close_all(self, status: Status = "finished") -> None:
        """Closes every run that is open here."""
        for run_id in sorted(self._open):
            self._log.report(self._close_run(run_id, status))

    def _ensure_open(self, run_id: str, resources: Resources = ()) -> None:
        if run_id in self._open:
            return
        if run_id not in self._described:
            described = self._known.describe(run_id) if self._known is not None else None
            described = described or presumed_run(run_id, (resource_run(item.resource) for item in resources))
            if described is not None:
                self._described[run_id] = described
        self._open_run(run_id)

    def _open_run(self, run_id: str) -> None:
        self._locations[run_id] = self.tracker.open_run(self._described.get(run_id) or RunInfo(run_id))
        self._open.add(run_id)

    def _set_aside(self, run_id: str, outcome: Outcome) -> None:
        try:
            self._companions.add(run_id, outcome.aside)
        except (OSError, ValueError) as error:
            log_once(
                f"{self.tracker.name} companion",
                logging.ERROR,
                "%s: %d values that it cannot keep natively are lost: %s",
                self.tracker.name,
                len(outcome.aside),
                error,
            )
            outcome.accepted -= len(outcome.aside)
        outcome.aside.clear()

    def _upload_companions(self, run_id: str) -> None:
        self._companions.upload(run_id, lambda name, path: self.tracker.write_file(run_id, name, path))

    def _plain_run(self, request: ExportMetricsServiceRequest) -> RunInfo | None:
        """The run that metrics of other instruments belong to, if it is one to write to."""
        run = self._default
        if run is None:
            infos = (resource_run(resource.resource) for resource in request.resource_metrics)
            run = next((info for info in infos if info is not None), None)
        if run is None:
            return None
        is_open = run.id in self._open or (self._known is not None and self._known.is_open(run.id))
        if not is_open and not self._opens_for_plain:
            return None
        self._described.setdefault(run.id, run)
        return run

    def _write_system(self, request: ExportMetricsServiceRequest, outcome: Outcome) -> None:
        points = list(system_points(request))
        run = self._plain_run(request) if points else None
        if run is not None:
            self._ensure_open(run.id)
            self._log.report(self.tracker.write_system(run.id, points))

    def _write_plain(self, request: ExportMetricsServiceRequest, outcome: Outcome) -> None:
        run = self._plain_run(request)
        if run is None:
            return
        series: list[Series] = []
        steps = self._plain_steps[run.id]
        taken: defaultdict[str, int] = defaultdict(int)
        for name, value, time_unix_nano in plain_series(request):
            series.append(Series(run.id, name, [Point(steps[name] + taken[name], value, time_unix_nano)]))
            taken[name] += 1
        if series:
            self._ensure_open(run.id)
            written = self.tracker.write_points(run.id, series)
            for name, count in taken.items():  # now: a write that is repeated repeats its steps
                steps[name] += count
            self._set_aside(run.id, written)
            self._log.report(written)
