"""The gateway's own metrics, through OpenTelemetry's SDK, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from tracelet_otel.gateway import instruments
from tracelet_otel.gateway.backends import Backend
from tracelet_otel.gateway.budget import Budget
from tracelet_otel.gateway.http_messages import Request, Response
from tracelet_otel.gateway.instruments import COMPONENT_NAME, Instrument
from tracelet_otel.gateway.intake import Intake
from tracelet_otel.gateway.measurements import Exports, Requests
from tracelet_otel.version import VERSION

Found = Iterator[tuple[float, dict[str, str]]]
Find = Callable[[], Found]


class Telemetry:
    """The measurements: some are taken as things happen, the others are read at each scrape."""

    def __init__(self) -> None:
        resource = Resource.create({"service.name": "tracelet-otel-gateway", "service.version": VERSION})
        self._provider = MeterProvider(
            metric_readers=[PrometheusMetricReader()], resource=resource, shutdown_on_exit=False
        )
        self._meter: Any = self._provider.get_meter("tracelet_otel.gateway", VERSION)
        self.exports = Exports(self._meter)
        self.requests = Requests(self._meter)

    def read(self, intake: Intake, budget: Budget) -> None:
        """Reads the numbers of an intake and of a budget at each scrape from now on."""
        finds: dict[Instrument, Find] = {
            instruments.POINTS_RECEIVED: _of_tally(intake, "points"),
            instruments.RECORDS_RECEIVED: _of_tally(intake, "records"),
            instruments.POINTS_REJECTED: _of_tally(intake, "rejected_points"),
            instruments.RECORDS_REJECTED: _of_tally(intake, "rejected_records"),
            instruments.DUPLICATES: lambda: _by(COMPONENT_NAME, intake.tally.repeated),
            instruments.POINTS_DELIVERED: _of_deliveries(intake, "delivered_points"),
            instruments.RECORDS_DELIVERED: _of_deliveries(intake, "delivered_records"),
            instruments.POINTS_DROPPED: _dropped(intake, "points"),
            instruments.RECORDS_DROPPED: _dropped(intake, "records"),
            instruments.QUEUE_POINTS: _of_spools(intake, "points"),
            instruments.QUEUE_RECORDS: _of_spools(intake, "records"),
            instruments.SPOOL_SIZE: _of_spools(intake, "bytes"),
            instruments.SPOOL_LIMIT: _of_spools(intake, "max_bytes"),
            instruments.RUNS: lambda: _by("state", intake.runs.counts()),
            instruments.REQUESTS_ACTIVE: lambda: _one(budget.requests),
        }
        for instrument, find in finds.items():
            create = getattr(self._meter, f"create_observable_{instrument.kind}")
            create(instrument.name, [_callback(find)], instrument.unit, instrument.meaning)

    async def serve(self, request: Request) -> Response:
        """Answers a scrape."""
        return Response(body=generate_latest(REGISTRY), content_type=CONTENT_TYPE_LATEST)

    def close(self) -> None:
        """Ends the provider."""
        self._provider.shutdown()


def _one(value: float) -> Found:
    yield value, {}


def _by(key: str, counts: Mapping[Any, int]) -> Found:
    for name, count in tuple(counts.items()):
        yield count, {key: name}


def _of_tally(intake: Intake, name: str) -> Find:
    return lambda: _one(getattr(intake.tally, name))


def _of_backends(intake: Intake, read: Callable[[Backend], float]) -> Find:
    return lambda: ((read(backend), {COMPONENT_NAME: backend.delivery.name}) for backend in intake.backends)


def _of_deliveries(intake: Intake, name: str) -> Find:
    return _of_backends(intake, lambda backend: getattr(backend.delivery.counts, name))


def _of_spools(intake: Intake, name: str) -> Find:
    return _of_backends(intake, lambda backend: getattr(backend.spool, name))


def _dropped(intake: Intake, what: str) -> Find:
    def read(backend: Backend) -> float:
        dropped = getattr(backend.delivery.counts, f"dropped_{what}") - getattr(backend.spool, what)
        return max(0, dropped)

    return _of_backends(intake, read)


def _callback(find: Find) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda options: [Observation(value, attributes) for value, attributes in find()]
