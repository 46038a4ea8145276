"""What a gateway says of itself, and that it says it as OpenTelemetry's semantic conventions do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.semconv._incubating.attributes import otel_attributes, rpc_attributes
from opentelemetry.semconv._incubating.metrics import otel_metrics, rpc_metrics
from opentelemetry.semconv.attributes import error_attributes, http_attributes, url_attributes
from opentelemetry.semconv.metrics import http_metrics

from tests.fifth_tracker.json_folder import JsonFolderTracker
from tests.gateway.process import ROOT, Client, Gateway
from tests.gateway.support import Job
from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.gateway import measurements
from tracelet_otel.gateway.measurements import Exports, MeasuredDestination, Requests
from tracelet_otel.gateway.telemetry import COUNTERS, LEVELS
from tracelet_otel.otlp.records import Series
from tracelet_otel.tracker.exporter import TrackerExporter
from tracelet_otel.tracker.interface import Outcome, Problem

TYPE = "tests.fifth_tracker.json_folder.JsonFolderTracker"
LABELS = f'otel_component_name="json_folder",otel_component_type="{TYPE}"'
DATA_POINTS = "otel_sdk_exporter_metric_data_point_exported_total"
LOGS = "otel_sdk_exporter_log_exported_total"
DURATION = "otel_sdk_exporter_operation_duration_seconds"
RPC_METHOD = "opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


def test_exports_and_requests_are_measured(tmp_path: Path) -> None:
    """One run that a tracker takes in part, one that it refuses, one for which it is away for a while."""
    good, refused, away = Job("good"), Job("refused"), Job("away")
    runs = tmp_path / "json" / "runs"
    runs.mkdir(parents=True)
    tracker = JsonFolderTracker(runs)
    tracker._path("refused").write_text("a file where its folder has to be")
    in_the_way = tracker._path("away") / "run.json"  # a folder where a file has to be: it may pass
    in_the_way.mkdir(parents=True)
    for tag, step in (("a", 0), ("b", 0), ("b", 1)):
        good.log(tag, step, 1.0)
    with (
        Gateway(tmp_path, "--backends", "json_folder") as gateway,
        Client("grpc", gateway.grpc) as called,
        Client("http", gateway.http) as posted,
    ):
        called.accept(good.begin(), good.collect())
        posted.accept(good.record("params", payload=b"[]", mime_type="application/json"))  # no JSON object
        posted.accept(good.end("finished"))
        posted.accept(refused.steps("a", range(3)))
        gateway.wait_for(f'{DATA_POINTS}{{error_type="FileExistsError",{LABELS}}}', 1)
        called.accept(away.steps("a", range(3)))
        gateway.wait_for(f"otel_sdk_exporter_metric_data_point_inflight{{{LABELS}}}", 1)
        measured = gateway.measured()
        assert measured[f"{DATA_POINTS}{{{LABELS}}}"] == 2  # "a" and "b", of three points
        assert measured['tracelet_gateway_queue_points{otel_component_name="json_folder"}'] == 3
        in_the_way.rmdir()
        gateway.wait_for(f"{DATA_POINTS}{{{LABELS}}}", 3)

        assert called.send("metrics", b"\xff").code == "INVALID_ARGUMENT"
        assert posted.send("metrics", b"\xff").code == "400"
        assert httpx.get(f"http://{gateway.http}/nowhere").status_code == 404
        assert httpx.request("BREW", f"http://{gateway.http}/healthz").status_code == 405
        measured = gateway.measured()
    assert select(measured, DATA_POINTS) == {
        f"{{{LABELS}}}": 3,
        f'{{error_type="FileExistsError",{LABELS}}}': 1,
    }
    assert select(measured, LOGS) == {f"{{{LABELS}}}": 2, f'{{error_type="rejected",{LABELS}}}': 1}
    assert select(measured, "otel_sdk_exporter_metric_data_point_inflight") == {f"{{{LABELS}}}": 0}
    assert select(measured, "otel_sdk_exporter_log_inflight") == {f"{{{LABELS}}}": 0}
    assert select(measured, f"{DURATION}_count") == {  # an export however often it is tried
        f"{{{LABELS}}}": 4,
        f'{{error_type="FileExistsError",{LABELS}}}': 1,
        f'{{error_type="rejected",{LABELS}}}': 1,
    }
    assert measured[f"{DURATION}_sum{{{LABELS}}}"] > 0.2  # the first back-off at least
    assert select(measured, "rpc_server_call_duration_seconds_count") == {
        rpc("metrics", "OK"): 2,
        rpc("logs", "OK"): 1,
        rpc("metrics", "INVALID_ARGUMENT"): 1,
    }
    answered = select(measured, "http_server_request_duration_seconds_count")
    scraped = answered.pop(http("GET", "/metrics", 200))
    assert scraped >= 3
    assert answered == {
        http("POST", "/v1/logs", 200): 2,
        http("POST", "/v1/metrics", 200): 1,
        http("POST", "/v1/metrics", 400): 1,
        http("GET", "", 404): 1,
        http("_OTHER", "/healthz", 405): 1,
    }


def select(measured: Mapping[str, float], name: str) -> dict[str, float]:
    """One metric's values by their labels."""
    return {key.removeprefix(name): value for key, value in measured.items() if key.partition("{")[0] == name}


def rpc(signal: str, code: str) -> str:
    method = f"opentelemetry.proto.collector.{signal}.v1.{signal.capitalize()}Service/Export"
    return f'{{rpc_method="{method}",rpc_response_status_code="{code}",rpc_system_name="grpc"}}'


def http(method: str, route: str, status: int) -> str:
    named = f'http_route="{route}",' if route else ""
    return f'{{http_request_method="{method}",http_response_status_code="{status}",{named}url_scheme="http"}}'


class Collected:
    """What instruments make of themselves in OpenTelemetry's SDK."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.meter = MeterProvider([self._reader], shutdown_on_exit=False).get_meter("test")

    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return {m.name: m for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics}


class Picky(JsonFolderTracker):
    """Refuses whatever has a tag that begins with "bad"."""

    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:
        bad = [one for one in series if one.tag.startswith("bad")]
        outcome = super().write_points(run_id, [one for one in series if one not in bad])
        outcome.rejected += [Problem(one.tag, "bad") for one in bad for _ in one.points]
        return outcome


def test_a_data_point_of_which_a_tracker_refuses_something_has_failed(tmp_path: Path) -> None:
    collected = Collected()
    exporter = TrackerExporter(Picky(tmp_path / "runs"), companions=tmp_path / "companions")
    destination = MeasuredDestination("picky", "Picky", exporter, Exports(collected.meter))
    job = Job("run-a")
    for step in range(5):
        for tag in ("good", "bad/a", "bad/b"):
            job.log(tag, step, 0.5)
    [request] = job.collect()
    destination.load()
    destination.connect()
    assert destination.send(Batch(metrics=request.data, points=15)) == Receipt(points=5, rejected=2)
    assert "bad" in destination.refusals()
    exported = collected.metrics()["otel.sdk.exporter.metric_data_point.exported"].data.data_points
    assert {point.attributes.get("error.type"): point.value for point in exported} == {
        None: 1,
        "rejected": 2,
    }
    [duration] = collected.metrics()["otel.sdk.exporter.operation.duration"].data.data_points
    assert duration.attributes == {
        "otel.component.name": "picky",
        "otel.component.type": "Picky",
        "error.type": "rejected",
    }


def conventional() -> dict[str, Any]:
    """Every metric for which there is a convention, measured once."""
    collected = Collected()
    exports, requests = Exports(collected.meter), Requests(collected.meter)
    for counter in (*exports.data_points, *exports.logs):
        counter.add(1)
    exports.duration.record(1)
    requests.answered(0, method="GET", scheme="http", route="/", status=503)
    requests.called(0, method=RPC_METHOD, code="UNAVAILABLE")
    return collected.metrics()


def test_names_units_and_kinds_are_the_conventions() -> None:
    theirs = Collected()
    otel_metrics.create_otel_sdk_exporter_metric_data_point_exported(theirs.meter).add(1)
    otel_metrics.create_otel_sdk_exporter_metric_data_point_inflight(theirs.meter).add(1)
    otel_metrics.create_otel_sdk_exporter_log_exported(theirs.meter).add(1)
    otel_metrics.create_otel_sdk_exporter_log_inflight(theirs.meter).add(1)
    otel_metrics.create_otel_sdk_exporter_operation_duration(theirs.meter).record(1)
    rpc_metrics.create_rpc_server_call_duration(theirs.meter).record(1)
    theirs.meter.create_histogram(
        http_metrics.HTTP_SERVER_REQUEST_DURATION, "s", "Duration of HTTP server requests."
    ).record(1)
    made = conventional()
    assert _about(made) == _about(theirs.metrics())
    [answered] = made[http_metrics.HTTP_SERVER_REQUEST_DURATION].data.data_points
    assert answered.attributes == {
        http_attributes.HTTP_REQUEST_METHOD: "GET",
        http_attributes.HTTP_RESPONSE_STATUS_CODE: 503,
        http_attributes.HTTP_ROUTE: "/",
        url_attributes.URL_SCHEME: "http",
        error_attributes.ERROR_TYPE: "503",
    }
    [called] = made[rpc_metrics.RPC_SERVER_CALL_DURATION].data.data_points
    assert called.attributes == {
        rpc_attributes.RPC_SYSTEM_NAME: "grpc",
        rpc_attributes.RPC_METHOD: RPC_METHOD,
        rpc_attributes.RPC_RESPONSE_STATUS_CODE: "UNAVAILABLE",
        error_attributes.ERROR_TYPE: "UNAVAILABLE",
    }
    assert measurements.COMPONENT_NAME == otel_attributes.OTEL_COMPONENT_NAME
    assert measurements.COMPONENT_TYPE == otel_attributes.OTEL_COMPONENT_TYPE
    assert measurements.ERROR_TYPE == error_attributes.ERROR_TYPE


def _about(metrics: Mapping[str, Any]) -> dict[str, tuple[str, str, str, bool | None]]:
    return {
        name: (m.unit, m.description, type(m.data).__name__, getattr(m.data, "is_monotonic", None))
        for name, m in metrics.items()
    }


def test_the_page_has_every_metric() -> None:
    """The table of docs/gateway.md, by name."""
    page = (ROOT / "docs" / "gateway.md").read_text()
    listed = set(re.findall(r"^\| `([a-z_.]+)` \|", page.partition("## Watching it")[2], re.MULTILINE))
    assert listed == conventional().keys() | {f"tracelet.gateway.{name}" for name in (*COUNTERS, *LEVELS)}
