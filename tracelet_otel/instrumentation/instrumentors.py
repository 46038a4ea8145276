"""Switches our own instrumentors on, for ``configure()`` without ``opentelemetry-instrument``."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tracelet_otel.foundation import entry_points as installed
from tracelet_otel.foundation.guard import Guard

SAMPLED = frozenset({"system_metrics", "gpu"})
"""Entry points of instrumentors whose metrics :mod:`tracelet_otel.session.sampler` takes, at its own pace."""
PARTS = SAMPLED | {"environment"}
"""What can be switched off by name and is not to be instrumented by that name."""
_switched_off: frozenset[str] = frozenset()


def switch_off(names: Iterable[str]) -> None:
    """Leaves these out from now on, beside those that the variable names."""
    global _switched_off
    _switched_off = frozenset(names)


def disabled(name: str) -> bool:
    """Whether ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` names this part of us, or all with ``*``, or the
    configuration file does.
    """
    names = os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")
    return name in _switched_off or any(item.strip() in (name, "*") for item in names)


def instrument() -> None:
    """Hooks every library we know, now or when it is imported.

    Those in ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` are left alone, as OpenTelemetry has it.
    """
    for entry in installed.in_group("opentelemetry_instrumentor"):
        ours = entry.value.startswith("tracelet_otel.") and entry.name not in SAMPLED
        if ours and not disabled(entry.name):
            with Guard(f"instrumenting {entry.name}"):
                entry.load()().instrument(skip_dep_check=True)
