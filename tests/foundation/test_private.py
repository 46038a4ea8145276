"""Everything but what it is for works without any one of OpenTelemetry's private names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.scripts import clean_environment
from tracelet_otel.foundation import private

NAMES = [name for name in vars(private).values() if isinstance(name, private.Private)]

SCRIPT = """
import sys
from importlib import import_module
# OpenTelemetry itself uses its names as it is imported.
import opentelemetry.instrumentation.distro, opentelemetry.instrumentation.instrumentor
import opentelemetry.sdk._logs.export, opentelemetry.sdk.metrics.export, opentelemetry.sdk.trace.export
module, name = {module!r}, {name!r}
if name:
    delattr(import_module(module), name)
else:
    sys.modules[module] = None
import tracelet_otel, tracelet_otel.distro
tracelet_otel.configure("file", isolation="thread", spool_dir={folder!r})
tracelet_otel.log_scalar("loss", 0.5, 1)
tracelet_otel.log_text("note", "read me")
assert tracelet_otel.flush()
tracelet_otel.shutdown()
"""


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name.module}:{name.name}")
def test_a_missing_name_costs_what_it_is_for_and_nothing_else(name: private.Private, tmp_path) -> None:
    assert name.find() is not None
    script = SCRIPT.format(module=name.module, name=name.name, folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*.jsonl"))
    assert b"loss" in kept
    assert b"tracelet.text" in kept
