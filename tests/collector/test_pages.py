"""The pages about the chain: links lead somewhere, and commands fit the configurations beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.collector import rules

ROOT = Path(__file__).resolve().parents[2]
COLLECTOR = ROOT / "examples" / "collector"
PAGES = [ROOT / "docs" / "collector.md", *sorted((ROOT / "examples").glob("*/README.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), link


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
