"""The gateway's own metrics, through OpenTelemetry's SDK, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from tracelet_otel.gateway.budget import Budget
from tracelet_otel.gateway.http_messages import Request, Response
from tracelet_otel.gateway.intake import Intake
from tracelet_otel.version import VERSION

PREFIX: Final = "tracelet.gateway"
Found = Iterator[tuple[float, dict[str, str]]]
Find = Callable[[], Found]


class Telemetry:
    """Reads the numbers of an intake whenever somebody asks for them.

    Args:
        intake: whose.
        budget: of what is in hand.
    """

    def __init__(self, intake: Intake, budget: Budget) -> None:
        self._intake = intake
        self._budget = budget
        resource = Resource.create({"service.name": "tracelet-otel-gateway", "service.version": VERSION})
        self._provider = MeterProvider(
            metric_readers=[PrometheusMetricReader()], resource=resource, shutdown_on_exit=False
        )
        meter: Any = self._provider.get_meter("tracelet_otel.gateway", VERSION)
        counters: dict[str, tuple[Find, str, str]] = {
            "requests": (self._requests, "{request}", "Requests by signal and answer"),
            "points.received": (self._of_tally("points"), "{point}", "Logged points that came"),
            "records.received": (self._of_tally("records"), "{record}", "Records that came"),
            "points.rejected": (self._of_tally("rejected_points"), "{point}", "Points refused for ever"),
            "records.rejected": (self._of_tally("rejected_records"), "{record}", "Records refused for ever"),
            "duplicates": (self._duplicates, "{item}", "Data points and records that a backend had already"),
            "points.delivered": (self._of_deliveries("delivered_points"), "{point}", "Points a backend has"),
            "records.delivered": (
                self._of_deliveries("delivered_records"),
                "{record}",
                "Records a backend has",
            ),
            "points.dropped": (self._dropped("points"), "{point}", "Points that a backend refused"),
            "records.dropped": (self._dropped("records"), "{record}", "Records that a backend refused"),
        }
        gauges: dict[str, tuple[Find, str, str]] = {
            "queue.points": (self._of_spools("points"), "{point}", "Points that wait for a backend"),
            "queue.records": (self._of_spools("records"), "{record}", "Records that wait for a backend"),
            "spool.size": (self._of_spools("bytes"), "By", "Bytes of a backend's spool"),
            "spool.limit": (self._of_spools("max_bytes"), "By", "Bytes that a backend's spool may have"),
            "runs": (self._runs, "{run}", "Runs that are open, have ended, or fell silent"),
            "requests.active": (self._active, "{request}", "Requests in hand"),
        }
        for name, (find, unit, meaning) in counters.items():
            meter.create_observable_counter(f"{PREFIX}.{name}", [_callback(find)], unit, meaning)
        for name, (find, unit, meaning) in gauges.items():
            meter.create_observable_up_down_counter(f"{PREFIX}.{name}", [_callback(find)], unit, meaning)

    async def serve(self, request: Request) -> Response:
        """Answers a scrape."""
        return Response(body=generate_latest(REGISTRY), content_type=CONTENT_TYPE_LATEST)

    def close(self) -> None:
        """Ends the provider."""
        self._provider.shutdown()

    def _requests(self) -> Found:
        for (signal, answer), count in tuple(self._intake.tally.requests.items()):
            yield count, {"signal": signal, "answer": answer}

    def _duplicates(self) -> Found:
        for backend, count in tuple(self._intake.tally.repeated.items()):
            yield count, {"backend": backend}

    def _runs(self) -> Found:
        for state, count in self._intake.runs.counts().items():
            yield count, {"state": state}

    def _active(self) -> Found:
        yield self._budget.requests, {}

    def _of_tally(self, name: str) -> Find:
        def find() -> Found:
            yield getattr(self._intake.tally, name), {}

        return find

    def _of_deliveries(self, name: str) -> Find:
        def find() -> Found:
            for outlet in self._intake.outlets:
                yield getattr(outlet.delivery.counts, name), {"backend": outlet.delivery.name}

        return find

    def _of_spools(self, name: str) -> Find:
        def find() -> Found:
            for outlet in self._intake.outlets:
                yield getattr(outlet.spool, name), {"backend": outlet.delivery.name}

        return find

    def _dropped(self, what: str) -> Find:
        def find() -> Found:
            for outlet in self._intake.outlets:
                counts = outlet.delivery.counts
                dropped = getattr(counts, f"dropped_{what}") - getattr(outlet.spool, what)
                yield max(0, dropped), {"backend": outlet.delivery.name}

        return find


def _callback(find: Find) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, attributes) for value, attributes in find()]

    return observe
