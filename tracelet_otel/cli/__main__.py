"""``python -m tracelet_otel.cli``."""

from tracelet_otel.cli.main import app

app(prog_name="tracelet-otel")
