"""The pages about the chain: commands fit the configurations beside them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.collector import rules

ROOT = Path(__file__).resolve().parents[2]
COLLECTOR = ROOT / "examples" / "collector"


def test_one_machines_commands_fit_its_configuration() -> None:
    page = (COLLECTOR / "README.md").read_text(encoding="utf-8")
    config = rules.read(COLLECTOR / "collector.yaml")
    to = config["exporters"]["otlp_grpc/gateway"]["endpoint"]
    defaults = dict(re.findall(r"\$\{env:(\w+):-([^}]+)\}", (COLLECTOR / "collector.yaml").read_text()))
    assert f"--grpc 127.0.0.1:{defaults['GATEWAY_GRPC_PORT']}" in page
    assert "GATEWAY_GRPC_PORT" in to
    http = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert "COLLECTOR_HTTP_PORT" in http
    assert f"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{defaults['COLLECTOR_HTTP_PORT']}" in page
    table = page[page.index("| variable |") :]
    for name, default in defaults.items():
        assert re.search(rf"`{name}`.*{re.escape(default)}", table), name
