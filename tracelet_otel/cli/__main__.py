"""``python -m tracelet_otel.cli``."""

from __future__ import annotations

from tracelet_otel.cli.main import app

app(prog_name="tracelet-otel")
