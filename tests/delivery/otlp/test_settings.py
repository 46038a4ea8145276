"""The standard variables and the options, resolved to connections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tracelet_otel.delivery.otlp.settings import PREFIX, Receiver, resolve
from tracelet_otel.settings import ConfigurationError


def resolved(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    options: dict[str, Any] | None = None,
    protocol: str = "",
) -> tuple[Receiver, Receiver]:
    for name, value in variables.items():
        monkeypatch.setenv(PREFIX + name, value)
    connections = resolve(options or {}, protocol=protocol)
    return connections["metrics"], connections["logs"]


def test_without_anything_it_is_grpc_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, logs = resolved(monkeypatch, {})
    assert metrics == logs == Receiver("grpc", "localhost:4317", timeout=10.0)


@pytest.mark.parametrize(
    ("variables", "metrics", "logs"),
    [
        ({}, "http://localhost:4318/v1/metrics", "http://localhost:4318/v1/logs"),
        (
            {"ENDPOINT": "https://user:secret@host:1/base/"},
            "https://host:1/base/v1/metrics",
            "https://host:1/base/v1/logs",
        ),
        (
            {"ENDPOINT": "http://host", "METRICS_ENDPOINT": "http://other:9/api/otlp"},
            "http://other:9/api/otlp",
            "http://host/v1/logs",
        ),
        ({"LOGS_ENDPOINT": "http://other:9"}, "http://localhost:4318/v1/metrics", "http://other:9/"),
        ({"ENDPOINT": "http://[::1]:4318"}, "http://[::1]:4318/v1/metrics", "http://[::1]:4318/v1/logs"),
    ],
)
def test_http_endpoints(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], metrics: str, logs: str
) -> None:
    found = resolved(monkeypatch, {"PROTOCOL": "http/protobuf", **variables})
    assert [item.endpoint for item in found] == [metrics, logs]
    assert [item.secure for item in found] == [item.endpoint.startswith("https") for item in found]


@pytest.mark.parametrize(
    ("variables", "endpoint", "secure"),
    [
        ({"ENDPOINT": "http://host:4317"}, "host:4317", False),
        ({"ENDPOINT": "https://host:4317/ignored"}, "host:4317", True),
        ({"ENDPOINT": "https://host:4317", "INSECURE": "true"}, "host:4317", True),
        ({"ENDPOINT": "host:4317"}, "host:4317", True),
        ({"ENDPOINT": "host:4317", "INSECURE": "True"}, "host:4317", False),
        ({"ENDPOINT": "dns:///host:4317", "METRICS_INSECURE": "true"}, "dns:///host:4317", False),
        ({"ENDPOINT": "unix:///run/otlp.sock"}, "unix:///run/otlp.sock", False),
    ],
)
def test_grpc_endpoints(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], endpoint: str, secure: bool
) -> None:
    metrics, _ = resolved(monkeypatch, variables, protocol="grpc")
    assert (metrics.endpoint, metrics.secure) == (endpoint, secure)


def test_an_option_wins_over_a_signals_variable_and_that_over_the_general_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {
        "TIMEOUT": "20",
        "METRICS_TIMEOUT": "5000",  # as the specification has it
        "COMPRESSION": "gzip",
        "LOGS_COMPRESSION": "none",
        "LOGS_PROTOCOL": "http/protobuf",
        "HEADERS": "X-Team=blue,authorization=Bearer%20t0k3n",
    }
    metrics, logs = resolved(monkeypatch, variables)
    assert (metrics.timeout, logs.timeout) == (5.0, 20.0)
    assert (metrics.compression, logs.compression) == ("gzip", "none")
    assert (metrics.protocol, logs.protocol) == ("grpc", "http/protobuf")
    assert dict(metrics.headers) == {"x-team": "blue", "authorization": "Bearer t0k3n"}
    options = {"timeout": 3, "compression": "none", "headers": {"X-Team": "red"}, "protocol": "grpc"}
    metrics, logs = resolved(monkeypatch, {}, {**options, "endpoint": "http://h:1"})
    assert metrics == logs == Receiver("grpc", "h:1", headers=(("x-team", "red"),), timeout=3.0)


@pytest.mark.parametrize(
    ("variables", "options", "says"),
    [
        ({"PROTOCOL": "http/json"}, {}, "OTEL_EXPORTER_OTLP_PROTOCOL must be one of grpc, http/protobuf"),
        ({"LOGS_COMPRESSION": "zstd"}, {}, "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION must be one of gzip, none"),
        ({"TIMEOUT": "soon"}, {}, "OTEL_EXPORTER_OTLP_TIMEOUT must be a number"),
        ({}, {"timeout": 0}, "option timeout of backend 'otlp' must be a number of seconds above 0"),
        ({"HEADERS": "nothing"}, {}, "OTEL_EXPORTER_OTLP_HEADERS must look like key=value"),
        ({}, {"headers": {"a": "ä"}}, "header 'a' has characters that no header may have"),
        ({"CERTIFICATE": "/no/such"}, {}, "OTEL_EXPORTER_OTLP_CERTIFICATE names no file"),
        ({"PROTOCOL": "http/protobuf"}, {"endpoint": "host:4318"}, "must be a URL that begins with http://"),
        ({"PROTOCOL": "http/protobuf"}, {"endpoint": "http://h/v1/metrics"}, "leave off /v1/..."),
        ({}, {"endpoint": "http://:80"}, "has no host"),
        ({}, {"endpoint": "http://h:port"}, "is no URL"),
        ({}, {"url": "http://h"}, "backend 'otlp' takes endpoint, protocol, headers, compression, timeout"),
    ],
)
def test_what_is_wrong_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolved(monkeypatch, variables, options)
    assert says in str(caught.value)


def test_a_client_certificate_needs_its_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="need each other"):
        resolved(monkeypatch, {"CLIENT_KEY": str(tmp_path / "file")})


def test_a_name_with_a_protocol_takes_no_other() -> None:
    assert resolve({}, protocol="http/protobuf")["metrics"].endpoint == "http://localhost:4318/v1/metrics"
    with pytest.raises(ConfigurationError, match="got 'protocol'"):
        resolve({"protocol": "grpc"}, protocol="http/protobuf")
