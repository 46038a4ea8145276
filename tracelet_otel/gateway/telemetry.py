"""The gateway's own metrics, through OpenTelemetry's SDK, in Prometheus' format.

Some are measured as things happen, see :mod:`tracelet_otel.gateway.measurements`; those here are read at each
scrape. No convention has them, so their names begin with ``tracelet.gateway.``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from tracelet_otel.gateway.backends import Backend
from tracelet_otel.gateway.budget import Budget
from tracelet_otel.gateway.http_messages import Request, Response
from tracelet_otel.gateway.intake import Intake
from tracelet_otel.gateway.measurements import COMPONENT_NAME, Exports, Requests
from tracelet_otel.version import VERSION

Read = Callable[[Intake, Budget], Iterable[Observation]]


def _of_tally(name: str) -> Read:
    return lambda intake, budget: [Observation(getattr(intake.tally, name))]


def _of_backends(read: Callable[[Backend], float]) -> Read:
    return lambda intake, budget: [
        Observation(read(backend), {COMPONENT_NAME: backend.delivery.name}) for backend in intake.backends
    ]


def _dropped(what: str) -> Read:
    def read(backend: Backend) -> float:
        return max(0, getattr(backend.delivery.counts, f"dropped_{what}") - getattr(backend.spool, what))

    return _of_backends(read)


def _by(key: str, counts: Mapping[str, int]) -> list[Observation]:
    return [Observation(count, {key: name}) for name, count in tuple(counts.items())]


COUNTERS: Final[dict[str, tuple[str, str, Read]]] = {
    "points.received": ("{point}", "Logged points that came", _of_tally("points")),
    "records.received": ("{record}", "Records that came", _of_tally("records")),
    "points.rejected": ("{point}", "Points refused for ever", _of_tally("rejected_points")),
    "records.rejected": ("{record}", "Records refused for ever", _of_tally("rejected_records")),
    "duplicates": (
        "{item}",
        "Data points and records that a backend had already",
        lambda intake, budget: _by(COMPONENT_NAME, intake.tally.repeated),
    ),
    "points.delivered": (
        "{point}",
        "Points a backend has",
        _of_backends(attrgetter("delivery.counts.delivered_points")),
    ),
    "records.delivered": (
        "{record}",
        "Records a backend has",
        _of_backends(attrgetter("delivery.counts.delivered_records")),
    ),
    "points.dropped": ("{point}", "Points that a backend refused", _dropped("points")),
    "records.dropped": ("{record}", "Records that a backend refused", _dropped("records")),
}
"""By the name, without ``tracelet.gateway.``: the unit, the meaning, and what reads it."""
LEVELS: Final[dict[str, tuple[str, str, Read]]] = {
    "queue.points": ("{point}", "Points that wait for a backend", _of_backends(attrgetter("spool.points"))),
    "queue.records": (
        "{record}",
        "Records that wait for a backend",
        _of_backends(attrgetter("spool.records")),
    ),
    "spool.size": ("By", "Bytes of a backend's spool", _of_backends(attrgetter("spool.bytes"))),
    "spool.limit": (
        "By",
        "Bytes that a backend's spool may have",
        _of_backends(attrgetter("spool.max_bytes")),
    ),
    "runs": (
        "{run}",
        "Runs that are open, have ended, or fell silent",
        lambda intake, budget: _by("state", intake.runs.counts()),
    ),
    "requests.active": ("{request}", "Requests in hand", lambda _, budget: [Observation(budget.requests)]),
}
"""Likewise."""


class Telemetry:
    """The measurements."""

    def __init__(self) -> None:
        resource = Resource.create({"service.name": "tracelet-otel-gateway", "service.version": VERSION})
        provider = MeterProvider(
            metric_readers=[PrometheusMetricReader()], resource=resource, shutdown_on_exit=False
        )
        self._meter: Any = provider.get_meter("tracelet_otel.gateway", VERSION)
        self.exports = Exports(self._meter)
        self.requests = Requests(self._meter)
        self.close = provider.shutdown

    def read(self, intake: Intake, budget: Budget) -> None:
        """Reads the numbers of an intake and of a budget at each scrape from now on."""
        for kind, table in (("counter", COUNTERS), ("up_down_counter", LEVELS)):
            create = getattr(self._meter, f"create_observable_{kind}")
            for name, (unit, meaning, read) in table.items():

                def callback(options: CallbackOptions, read: Read = read) -> Iterable[Observation]:
                    return read(intake, budget)

                create(f"tracelet.gateway.{name}", [callback], unit, meaning)

    async def serve(self, request: Request) -> Response:
        """Answers a scrape."""
        return Response(body=generate_latest(REGISTRY), content_type=CONTENT_TYPE_LATEST)
