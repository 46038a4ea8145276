"""The Collector's configurations: parsed, complete, and without anything that loses a point."""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.collector import rules
from tracelet_otel import semconv

ROOT = Path(__file__).resolve().parents[2]
DEPLOYED = ROOT / "otel-collector.yaml"
SMALL = ROOT / "examples" / "collector" / "collector.yaml"
SCALED = ROOT / "examples" / "kubernetes" / "scaled" / "otel-collector.yaml"
BOTH = pytest.mark.parametrize("path", [DEPLOYED, SMALL], ids=["deployed", "one-machine"])
ALL = pytest.mark.parametrize("path", [DEPLOYED, SMALL, SCALED], ids=["deployed", "one-machine", "scaled"])


@ALL
def test_nothing_is_wrong(path: Path) -> None:
    assert list(rules.problems(rules.read(path))) == []


def test_the_deployed_one_is_closed_and_the_small_one_is_local() -> None:
    deployed, small = rules.read(DEPLOYED), rules.read(SMALL)
    for protocol in deployed["receivers"]["otlp"]["protocols"].values():
        assert protocol["tls"].keys() >= {"cert_file", "key_file"}
        assert protocol["auth"]["authenticator"].startswith("bearertokenauth/")
    gateway = deployed["exporters"]["otlp_grpc/gateway"]
    assert "insecure" not in gateway["tls"]
    assert gateway["auth"]["authenticator"].startswith("bearertokenauth/")
    for protocol in small["receivers"]["otlp"]["protocols"].values():
        assert protocol["endpoint"].startswith("127.0.0.1:")
    assert small["exporters"]["otlp_grpc/gateway"]["endpoint"].startswith("127.0.0.1:")


def test_prometheus_is_scraped_from_a_pipeline_of_its_own() -> None:
    config = rules.read(DEPLOYED)
    [live] = [p for p in config["service"]["pipelines"].values() if "prometheus" in p["exporters"]]
    assert live["exporters"] == ["prometheus"]
    # None of it pushes to Prometheus: what is scraped has nobody to wait for.
    assert not any("remote" in name for name in config["exporters"])
    prometheus = config["exporters"]["prometheus"]
    assert prometheus["enable_open_metrics"] is True
    assert prometheus["metric_expiration"]
    text = "\n".join(
        line
        for block in config["processors"]["transform/prometheus"]["metric_statements"]
        for line in block["statements"]
    )
    assert f'where metric.name == "{semconv.SCALAR}"' in text
    for name in (semconv.RUN_ID, semconv.RUN_NAME, semconv.PROJECT):
        assert f'resource.attributes["{name}"]' in text


def test_several_gateways_differ_in_the_exporter_alone() -> None:
    deployed, scaled = rules.read(DEPLOYED), rules.read(SCALED)
    one = deployed["exporters"].pop("otlp_grpc/gateway")
    several = scaled["exporters"].pop("load_balancing/gateway")
    for pipeline in deployed["service"]["pipelines"].values():
        pipeline["exporters"] = [
            name.replace("otlp_grpc/gateway", "load_balancing/gateway") for name in pipeline["exporters"]
        ]
    assert scaled == deployed
    # By run, whoever sends: the id is on every resource, data point and record of ours.
    assert (several["routing_key"], several["routing_attributes"]) == ("attributes", [semconv.RUN_ID])
    inner = several["protocol"]["otlp"]
    assert not inner.pop("sending_queue")["enabled"]
    assert not inner.pop("retry_on_failure")["enabled"]
    assert inner["tls"].pop("server_name_override") in one["endpoint"]
    assert inner == {key: one[key] for key in inner}
    assert {**several["sending_queue"], "num_consumers": 1} == one["sending_queue"]
    assert several["retry_on_failure"] == one["retry_on_failure"]


def _queue(config: dict[str, Any]) -> dict[str, Any]:
    return config["exporters"]["otlp_grpc/gateway"]["sending_queue"]


@BOTH
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda c: (
                c["processors"].update(batch={}),
                c["service"]["pipelines"]["metrics/exact"]["processors"].append("batch"),
            ),
            "may lose data",
        ),
        (lambda c: c["service"]["pipelines"]["logs/exact"]["processors"].clear(), "not the first processor"),
        (lambda c: c["service"]["pipelines"].pop("logs/exact"), "brings logs to the gateway"),
        (
            lambda c: (
                c["exporters"].setdefault("prometheus", {}),
                c["service"]["pipelines"]["metrics/exact"]["exporters"].append("prometheus"),
            ),
            "hold up the gateway's",
        ),
        (lambda c: c["service"]["extensions"].clear(), "no extension in use"),
        (lambda c: c["exporters"].pop("otlp_grpc/gateway"), "is used and not defined"),
        (lambda c: c["exporters"].update({"otlp_grpc/more": {}}), "is defined and not used"),
        (lambda c: c["extensions"]["file_storage/queue"].update(fsync=False), "before data is durable"),
        (lambda c: _queue(c).pop("storage"), "before data is durable"),
        (lambda c: _queue(c).update(sizer="items"), "not bounded in bytes"),
        (lambda c: _queue(c).update(block_on_overflow=False), "refuses when it is full"),
        (lambda c: _queue(c)["batch"].update(sizer="items"), "not counted in bytes"),
        (lambda c: _queue(c)["batch"].update(max_size=1048576), "too small for one item"),
        (lambda c: _queue(c)["batch"].update(max_size=0), "too small for one item"),
        (lambda c: _queue(c).update(queue_size=1000), "contradict each other"),
        (lambda c: _queue(c).update(queue_sise=1), "unknown key queue_sise"),
        (
            lambda c: c["exporters"]["otlp_grpc/gateway"]["retry_on_failure"].update(max_elapsed_time="5m"),
            "drops a batch",
        ),
        (
            lambda c: c["receivers"]["otlp"]["protocols"]["grpc"].pop("max_recv_msg_size_mib"),
            "less at once than the gateway",
        ),
    ],
)
def test_every_rule_bites(path: Path, spoil: Callable[[dict[str, Any]], object], says: str) -> None:
    config = copy.deepcopy(rules.read(path))  # YAML's anchors make parts of it one object
    spoil(config)
    found = list(rules.problems(config))
    assert any(says in problem for problem in found), found


@ALL
def test_the_collector_itself_accepts_it(path: Path, tmp_path: Path) -> None:
    binary = os.environ.get("OTELCOL")
    if not binary:
        pytest.skip("OTELCOL names no OpenTelemetry Collector (contrib) to validate the configuration with")
    done = subprocess.run(
        [binary, "validate", "--config", str(path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
