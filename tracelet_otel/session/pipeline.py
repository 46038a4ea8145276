"""Providers, one reader and the fan-out: from what was recorded to a delivery per backend."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from opentelemetry.sdk._logs import LoggerProvider, LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics
from opentelemetry.sdk.resources import Resource

from tracelet_otel import recording, semconv
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.routing import Route
from tracelet_otel.foundation.guard import Guard, log_once
from tracelet_otel.otlp import encoding, splitting
from tracelet_otel.otlp.run_resources import RunResources
from tracelet_otel.recording.events import EventBuffer
from tracelet_otel.recording.logged import json_event
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.recording.reservoir import EXEMPLAR_FILTER, lossless_views
from tracelet_otel.recording.run import Run, RunScope
from tracelet_otel.session.sampler import Reader, Sampler

LIVE_INTERVAL_S = 30.0
"""Between two times that receivers of everything get the live values of series without new points: well below
the five minutes after which Prometheus takes a series for gone."""
COLLECTION_TIMEOUT_S = 10.0
"""How long the end of a process waits for a collection that is under way."""
_POINT_BYTES = 200
"""What one point occupies as an SDK object, about."""
_UNLIMITED = LogRecordLimits(*[LogRecordLimits.UNSET] * 4)
"""The SDK's limits, from its environment variables, would cut tags and drop the run's id."""
_STATUS_EVENT = semconv.EVENT_PREFIX + "status"


def _encoded(chunk: splitting.Chunk) -> bytes:
    try:
        return encoding.encode(chunk.data).SerializeToString()
    except Exception as error:  # what users give their own instruments: bools, numpy's numbers
        log_once("foreign metrics", logging.WARNING, "a metric of another instrument is skipped: %r", error)
        return encoding.encode(encoding.only_ours(chunk.data)).SerializeToString()


def _encoded_records(records: list[ReadableLogRecord]) -> bytes:
    try:
        return encoding.encode_records(records).SerializeToString()
    except Exception as error:  # the bodies and attributes of other people's records
        log_once("foreign records", logging.WARNING, "a record of another logger is skipped: %r", error)
    good: list[ReadableLogRecord] = []
    for record in records:
        with contextlib.suppress(Exception):
            encoding.encode_records([record])
            good.append(record)
    return encoding.encode_records(good).SerializeToString()


class Pipeline:
    """Collects every interval, in its own thread, and hands everything to every delivery.

    Args:
        resource: describes this process and its run.
        scope: the run that values belong to, and those that are entered.
        interval: seconds between two collections.
        media: where large payloads go.
    """

    def __init__(self, resource: Resource, scope: RunScope, *, interval: float, media: MediaFolder) -> None:
        self.scope = scope
        self.runs = RunResources(resource, scope.default)
        """The resource of each run."""
        self.deliveries: list[Delivery] = []
        self._interval = interval
        self._media = media
        self._woken = threading.Event()
        self.wake = self._woken.set
        """Has the pipeline collect now. Returns at once."""
        self.sampler: Sampler | None = None
        self._undescribed: deque[tuple[Run, Callable[[], bytes]]] = deque()
        self._next_live = time.monotonic() + LIVE_INTERVAL_S
        self._stopped = False
        self._hurried = False
        self._collecting = threading.Lock()
        self._held: list[ReadableLogRecord] = []
        self._reader = Reader()
        self._joined: tuple[MeterProvider, Reader] | None = None
        self._events = EventBuffer(media, self.wake)
        self.meter_provider = MeterProvider(
            metric_readers=[self._reader],
            resource=resource,
            exemplar_filter=EXEMPLAR_FILTER,
            views=lossless_views(),
            shutdown_on_exit=False,
        )
        self.logger_provider = LoggerProvider(
            resource=resource, shutdown_on_exit=False, log_record_limits=_UNLIMITED
        )
        self.logger_provider.add_log_record_processor(self._events)
        self.recorder = recording.Recorder(self.meter_provider, self.logger_provider, self.scope, media)
        self._thread = threading.Thread(target=self._work, name="tracelet-pipeline", daemon=True)

    def start(self, deliveries: list[Delivery]) -> None:
        """Starts collecting for these deliveries."""
        self.deliveries = deliveries
        self._thread.start()

    def join(self, provider: MeterProvider) -> None:
        """Takes part in a provider that is not ours: its readers see the scalars' last values, and what its
        other instruments measure goes to the deliveries too.
        """
        self.recorder.show_on(provider)
        reader = Reader()
        provider.add_metric_reader(reader)
        self._joined = provider, reader

    def hurry(self) -> None:
        """Collects and delivers at once from now on, without waiting for it: the process is about to end."""
        self._hurried = True
        self.wake()

    def flush(self, idle_timeout: float) -> bool:
        """Collects now and waits until every delivery is done; see :meth:`Delivery.flush`."""
        self._collect()
        if self._held:
            self._collect()
        done = [delivery.flush(idle_timeout) for delivery in self.deliveries]
        return all(done)

    @property
    def is_reached(self) -> bool:
        """Whether what is collected goes on without this process, as far as it can."""
        return all(delivery.is_reached for delivery in self.deliveries)

    def describe(self, run: Run, payload: Callable[[], bytes]) -> None:
        """Adds the environment's record to a run, made by ``payload()`` on this pipeline's thread."""
        self._undescribed.append((run, payload))

    def stop(self, idle_timeout: float, deadline: float | None = None) -> None:
        """Collects what is left, delivers it and ends all threads; see :meth:`Delivery.close`."""
        self._stopped = True
        if self.sampler is not None:
            self.sampler.stop()
        self.wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(idle_timeout)
        with Guard("the last collection"):
            self._collect()
            if self._held:
                self._collect()
        for delivery in self.deliveries:  # all at once: one's deadline does not begin when another's ends
            delivery.begin_closing()
        for delivery in self.deliveries:
            delivery.finish_closing(idle_timeout, deadline)
        if self._joined is not None:
            provider, reader = self._joined
            provider.remove_metric_reader(reader)
        self._media.remove()

    def _work(self) -> None:
        while not self._stopped:
            self._woken.wait(self._interval)
            self._woken.clear()
            with Guard("a collection"):
                self._collect()
            if self._hurried:
                for delivery in self.deliveries:
                    delivery.hurry()

    def _collect(self) -> None:
        """One collection, in an order that keeps a run's records around its points.

        Records are drained after the metrics, so that the event that opens a run is there before its
        first points; a status is held back until the next collection, so that it comes after its last.
        """
        if not self._collecting.acquire(timeout=COLLECTION_TIMEOUT_S):
            log_once("collection", logging.WARNING, "a collection hangs, in a callback of some instrument")
            return
        try:
            for callback in recording.collection_callbacks():
                with Guard("a value that was logged on a device"):
                    callback()
            while self._undescribed:
                run, payload = self._undescribed.popleft()
                with Guard("describing the environment"):
                    self.recorder.event(json_event("environment", payload(), run))
            self.recorder.show()
            data = self._with_joined(self._reader.take())
            drained = self.runs.of_records(self._events.drain())
            statuses, self._held = (
                self._held,
                [r for r in drained if r.log_record.event_name == _STATUS_EVENT],
            )
            with Guard("encoding records"):
                self._put_records([r for r in drained if r.log_record.event_name != _STATUS_EVENT])
            with Guard("encoding metrics"):
                if data is not None:
                    self._put_metrics(data, live=self._live_is_due())
            with Guard("encoding the machine's metrics"):
                for sample in self.sampler.take() if self.sampler else ():
                    self._put_metrics(sample)
            self._put_records(statuses, ends=True)
        finally:
            self._collecting.release()

    def _with_joined(self, data: MetricsData | None) -> MetricsData | None:
        """What was collected, and what the instruments of the provider that was joined measure."""
        if self._joined is None or (taken := self._joined[1].take()) is None:
            return data
        scopes = [
            scope
            for resource in taken.resource_metrics
            for scope in resource.scope_metrics
            if scope.scope.name != recording.SCOPE_NAME  # what we show there ourselves
        ]
        if not scopes:
            return data
        others = ResourceMetrics(self.runs.default, scopes, schema_url="")
        return MetricsData([*(data.resource_metrics if data is not None else ()), others])

    def _live_is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next_live:
            return False
        self._next_live = now + LIVE_INTERVAL_S
        return True

    def _put_metrics(self, data: MetricsData, *, live: bool = False) -> None:
        for route, deliveries in self._by_route():
            for chunk in splitting.split(route.metrics(data), self.runs):
                encoded: bytes | None = None
                for delivery in deliveries:
                    if "metrics" not in delivery.signals:
                        continue
                    if delivery.takes_otlp:
                        if not chunk.has_new_points and not (live and delivery.takes_all):
                            continue
                        if encoded is None:
                            encoded = _encoded(chunk)
                        delivery.put(Batch(metrics=encoded, points=chunk.points, size=len(encoded)))
                    else:
                        size = chunk.points * _POINT_BYTES
                        delivery.put(Batch(metrics=chunk.data, points=chunk.points, size=size))

    def _put_records(self, records: list[ReadableLogRecord], *, ends: bool = False) -> None:
        for route, deliveries in self._by_route():
            self._put_routed(route.records(records), deliveries, ends=ends)

    def _by_route(self) -> list[tuple[Route, list[Delivery]]]:
        """Deliveries that get the same, together: for them it is encoded once."""
        groups: dict[object, tuple[Route, list[Delivery]]] = {}
        for delivery in self.deliveries:
            groups.setdefault(delivery.route.identity, (delivery.route, []))[1].append(delivery)
        return list(groups.values())

    def _put_routed(
        self, records: list[ReadableLogRecord], deliveries: list[Delivery], *, ends: bool
    ) -> None:
        deliveries = [delivery for delivery in deliveries if "logs" in delivery.signals]
        for part in splitting.split_logs(records):
            ours = [r for r in part if (r.log_record.event_name or "").startswith(semconv.EVENT_PREFIX)]
            kinds = [(r.log_record.event_name or "").removeprefix(semconv.EVENT_PREFIX) for r in ours]
            count = sum(1 for kind in kinds if kind not in semconv.ATTENDANTS)
            encoded: dict[bool, bytes] = {}
            for delivery in deliveries:
                if not delivery.takes_otlp:
                    size = sum(512 + splitting.payload_size(record) for record in part)
                    delivery.put(Batch(logs=part, records=count, size=size))
                    continue
                with_others = delivery.takes_all and len(ours) < len(part)
                if not ours and not with_others:
                    continue
                if with_others not in encoded:
                    encoded[with_others] = _encoded_records(part if with_others else ours)
                data = encoded[with_others]
                delivery.put(Batch(logs=data, records=count, size=len(data), ends=ends))
