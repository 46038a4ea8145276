"""The dashboard: every query is PromQL over metrics and labels that really come out of our instruments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import promql_parser
import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from tests.collector import rules
from tests.support import nvml
from tracelet_otel import semconv
from tracelet_otel.instrumentation.machine import gpu
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.recording.reservoir import lossless_views
from tracelet_otel.recording.run import Run, RunScope

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "grafana"
LIVE = "\n".join(
    line
    for block in rules.read(ROOT / "otel-collector.yaml")["processors"]["transform/prometheus"][
        "metric_statements"
    ]
    for line in block["statements"]
)
"""What the Collector does to metrics on their way to Prometheus."""
PROMOTED = set(re.findall(r'set\(datapoint\.attributes\["([^"]+)"\], resource\.attributes\["\1"\]\)', LIVE))
"""Attributes of the resource that it makes labels of."""


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """The labels of each metric, as a real exporter of OpenTelemetry's names it for Prometheus.

    Python's leaves one rule out that the Collector keeps: a gauge of unit 1 ends in ``_ratio``. Sources:
    OpenTelemetry specification, "Prometheus and OpenMetrics Compatibility", section "Metric Metadata";
    prometheus/otlptranslator, metric_namer.go.
    """
    registry = prometheus_client.CollectorRegistry()
    reader = PrometheusMetricReader(
        disable_target_info=True,
        scope_info_enabled=False,
        resource_attribute_filter=PROMOTED.__contains__,
        registry=registry,
    )
    described = {semconv.RUN_ID: "r", semconv.RUN_NAME: "name", semconv.PROJECT: "p", "host.name": "node-1"}
    plain = InMemoryMetricReader()
    provider = MeterProvider(
        [reader, plain], resource=Resource(described), views=lossless_views(), shutdown_on_exit=False
    )
    run = Run(id="r", rank=1)
    recorder = Recorder(provider, LoggerProvider(shutdown_on_exit=False), RunScope(run))
    for value in (0.5, float("nan")):
        recorder.scalar(("loss", value, 1, None, False, run))
    found: dict[str, set[str]] = {}
    with nvml.driver(nvml.a100()):
        gpu.observe(provider)
        data = plain.get_metrics_data()
        assert data
        metrics = [m for resource in data.resource_metrics for s in resource.scope_metrics for m in s.metrics]
        units = {metric.name.replace(".", "_"): metric.unit for metric in metrics}
        for family in registry.collect():
            ratio = "_ratio" if (family.type, units.get(family.name)) == ("gauge", "1") else ""
            for sample in family.samples:
                found.setdefault(sample.name + ratio, set()).update(sample.labels)
    provider.shutdown()
    # Of these the Collector makes another, see its configuration: a counter with the gauge's exemplars.
    for copied, original in re.findall(
        r'copy_metric\(name="([^"]+)"\) where metric\.name == "([^"]+)"', LIVE
    ):
        assert f'convert_gauge_to_sum("cumulative", true) where metric.name == "{copied}"' in LIVE
        found[f"{copied.replace('.', '_')}_total"] = found[original.replace(".", "_")]
    return found


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in panels(dashboard):
        yield from (target["expr"] for target in panel["targets"])


def selectors(query: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of a query, each with the labels that it selects by."""
    for name, value in {"$__range": "1h", "$run": "r", "$tag": "loss"}.items():
        query = query.replace(name, value)
    waiting: list[Any] = [promql_parser.parse(query)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, promql_parser.VectorSelector):
            yield node.name or "", {matcher.name for matcher in node.matchers.matchers}
        for part in ("expr", "lhs", "rhs", "vector_selector", "args"):
            inner = getattr(node, part, None)
            waiting += inner if isinstance(inner, list) else [] if inner is None else [inner]


def test_every_query_finds_metrics_and_labels_of_ours(
    dashboard: dict[str, Any], exposed: dict[str, set[str]]
) -> None:
    used: set[str] = set()
    for query in queries(dashboard):
        found = list(selectors(query))
        assert found, query
        for metric, labels in found:
            assert metric in exposed, f"{query}: there is no {metric}, but {sorted(exposed)}"
            assert labels <= exposed[metric], query
            used.add(metric)
    assert {"training_scalar", "training_scalar_nonfinite_total", "hw_gpu_utilization_ratio"} <= used
    # All that is measured of a GPU is shown.
    assert {name for name in exposed if name.startswith("hw_")} <= used


def test_every_legend_names_labels_that_are_there(
    dashboard: dict[str, Any], exposed: dict[str, set[str]]
) -> None:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            [(metric, _)] = selectors(target["expr"])
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert labels <= exposed[metric], (target["expr"], labels)


def test_a_query_over_something_else_is_noticed(exposed: dict[str, set[str]]) -> None:
    assert list(selectors('rate(hw_power_watts{host="a"}[5m]) / no_such_metric')) == [
        ("no_such_metric", set()),
        ("hw_power_watts", {"host"}),
    ]
    assert "host" not in exposed["hw_power_watts"]
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        list(selectors("sum(hw_power_watts"))


def test_runs_and_tags_can_be_chosen(dashboard: dict[str, Any], exposed: dict[str, set[str]]) -> None:
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables.keys() == {"datasource", "run", "tag"}
    for name in ("run", "tag"):
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variables[name]["query"]["query"])
        assert match
        [(metric, labels)] = selectors(match[1])
        assert metric == "training_scalar"
        assert labels | {match[2]} <= exposed[metric]
        assert variables[name]["multi"]
        assert variables[name]["includeAll"]
    for query in queries(dashboard):
        assert 'tracelet_run_id=~"$run"' in query


def test_scalars_show_the_exemplars_of_the_counter_beside_them(dashboard: dict[str, Any]) -> None:
    [scalars] = [panel for panel in panels(dashboard) if panel.get("repeat") == "tag"]
    [value] = [target for target in scalars["targets"] if not target["exemplar"]]
    [traces] = [target for target in scalars["targets"] if target["exemplar"]]
    assert value["expr"].startswith("training_scalar{")
    # It is 0 always, so that this draws no line; exemplars are asked for by its selector.
    assert traces["expr"].startswith("training_scalar_exemplars_total{")
    assert traces["expr"].endswith("} > 0")


def test_panels_are_well_formed(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in panels(dashboard):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]


def test_exemplars_link_to_a_data_source_for_traces() -> None:
    path = FOLDER / "provisioning" / "datasources" / "datasources.yaml"
    sources = yaml.safe_load(path.read_text(encoding="utf-8"))["datasources"]
    types = {source["uid"]: source["type"] for source in sources}
    [prometheus] = [source for source in sources if source["type"] == "prometheus"]
    [link] = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    assert (link["name"], types[link["datasourceUid"]]) == ("trace_id", "tempo")


def test_prometheus_scrapes_what_the_collector_serves() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text(encoding="utf-8"))
    [job] = config["scrape_configs"]
    exporter = rules.read(ROOT / "otel-collector.yaml")["exporters"]["prometheus"]
    port = exporter["endpoint"].rpartition(":")[2]
    [group] = job["static_configs"]
    assert [target.rpartition(":")[2] for target in group["targets"]] == [port]
    assert (job["scheme"] == "https") == ("tls" in exporter)
    assert exporter["enable_open_metrics"]
    assert job["scrape_protocols"] == ["OpenMetricsText1.0.0"]
