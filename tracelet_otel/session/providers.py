"""OpenTelemetry's global providers: ours stand there until the user sets their own.

The API lets a global provider be set once. A user's script that sets its own, as it does without us,
must not find the place taken; so ours is put there and the place is left open. The API has no public
way for a default: the two variables that its own tests reset are used, and if they are gone one day,
ours is not made global and everything else works.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry._logs import LoggerProvider, set_logger_provider
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.resources import Resource

from tracelet_otel.backends.standard_exporters import traces_exporter
from tracelet_otel.foundation import private
from tracelet_otel.foundation.entry_points import find
from tracelet_otel.foundation.guard import Guard
from tracelet_otel.foundation.private_names import PrivateName
from tracelet_otel.settings import ConfigurationError

_ours: set[int] = set()


@dataclass(frozen=True, slots=True)
class DeclaredSdk:
    """What of OpenTelemetry a configuration file set up beside a session."""

    resource: Resource
    """Describes this process; a session adds its run."""
    meter_provider: SdkMeterProvider | None
    """The global one, with the file's own readers; None if it has none."""
    has_readers: bool
    """Whether there is any reader but ours."""


def offer_meter_provider(provider: MeterProvider) -> None:
    """Makes ``provider`` the global one, unless the user has set one."""
    if _is_free(private.METER_PROVIDER, "OTEL_PYTHON_METER_PROVIDER"):
        _set(private.METER_PROVIDER_ONCE, metrics.set_meter_provider, provider)


def offer_logger_provider(provider: LoggerProvider) -> None:
    """Makes ``provider`` the global one, unless the user has set one."""
    if _is_free(private.LOGGER_PROVIDER, "OTEL_PYTHON_LOGGER_PROVIDER"):
        _set(private.LOGGER_PROVIDER_ONCE, set_logger_provider, provider)


def find_span_exporters(names: Sequence[str]) -> list[EntryPoint]:
    """The span exporters of these names.

    Raises:
        ConfigurationError: one is not installed.
    """
    found: list[EntryPoint] = []
    for name in names:
        entry = find("opentelemetry_traces_exporter", traces_exporter(name))
        if entry is None:
            raise ConfigurationError(f"OTEL_TRACES_EXPORTER: no exporter {name!r} is installed")
        found.append(entry)
    return found


def offer_tracer_provider(exporters: Sequence[EntryPoint], resource: Resource) -> None:
    """Makes a tracer provider with these exporters global, unless the user has set one; none for none."""
    if not exporters or not _is_free(private.TRACER_PROVIDER, "OTEL_PYTHON_TRACER_PROVIDER"):
        return
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from tracelet_otel.secrets.spans import RedactingSpanExporter

    provider = TracerProvider(resource=resource)
    for entry in exporters:
        provider.add_span_processor(BatchSpanProcessor(RedactingSpanExporter(entry.load()())))
    _set(private.TRACER_PROVIDER_ONCE, trace.set_tracer_provider, provider)


def _is_free(variable: PrivateName, environment_variable: str) -> bool:
    current = variable.get()
    return (current is None and environment_variable not in os.environ) or id(current) in _ours


def _set(once: PrivateName, setter: Any, provider: object) -> None:
    with Guard("the global provider"):
        new_once = private.ONCE.get()
        if new_once is None or not isinstance(once.get(), new_once):
            return
        once.set(new_once())
        setter(provider)
        _ours.add(id(provider))
        once.set(new_once())
