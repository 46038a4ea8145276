"""Switches our own instrumentors on, for ``configure()`` without ``opentelemetry-instrument``."""

from __future__ import annotations

import os
from importlib.metadata import entry_points

from tracelet_otel.guard import Guard

_PACKAGE = "tracelet_otel."


def instrument() -> None:
    """Hooks every library we know, now or when it is imported.

    Those in ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` are left alone, as OpenTelemetry has it.
    """
    disabled = {
        name.strip() for name in os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")
    }
    if "*" in disabled:
        return
    for entry in entry_points(group="opentelemetry_instrumentor"):
        if entry.value.startswith(_PACKAGE) and entry.name not in disabled:
            with Guard(f"instrumenting {entry.name}"):
                entry.load()().instrument(skip_dep_check=True)
