"""What ``opentelemetry-instrument`` loads: the distribution, its configurator, and a safety net."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.distro import BaseDistro

from tracelet_otel.delivery.summary import say
from tracelet_otel.instrumentation.instrumentors import SAMPLED, disabled
from tracelet_otel.session import declarative, process
from tracelet_otel.settings import ConfigurationError, parse_backends, resolve, sdk_disabled

if TYPE_CHECKING:
    # The backport of the standard library's, whose type BaseDistro names.
    from opentelemetry.util._importlib_metadata import EntryPoint

OTEL_METRICS_EXPORTER = "OTEL_METRICS_EXPORTER"
OTEL_LOGS_EXPORTER = "OTEL_LOGS_EXPORTER"
OTEL_TRACES_EXPORTER = "OTEL_TRACES_EXPORTER"

_tried = False


class TraceletDistro(BaseDistro):
    """The distribution. Its defaults are those of :mod:`tracelet_otel.settings`; nothing is left to set."""

    def _configure(self, **kwargs: Any) -> None:
        pass

    def load_instrumentor(self, entry_point: EntryPoint, **kwargs: Any) -> None:
        """Loads an instrumentor, but for those that we sample ourselves, and not every second, and those that
        a configuration file switches off or has instrumented already.
        """
        if entry_point.name in SAMPLED or disabled(entry_point.name):
            return
        if not entry_point.load()().is_instrumented_by_opentelemetry:
            super().load_instrumentor(entry_point, **kwargs)  # pyright: ignore[reportUnknownMemberType]


class TraceletConfigurator:
    """Starts the session from the environment and offers its providers to OpenTelemetry's API.

    No ``_BaseConfigurator`` of the SDK, which is private and whose module takes every start 4 ms: all that is
    asked of a configurator is this method.
    """

    def configure(self, **kwargs: Any) -> None:
        """Starts it; what ``opentelemetry-instrument`` says about itself is not needed."""
        start_from_environment(offer_providers=True)


def ensure_configured() -> None:
    """Starts the session where another distribution's configurator was loaded instead of ours.

    Its global providers stay; what training logs goes through ours. An entry point of the group
    ``opentelemetry_post_instrument``, which every distribution runs.
    """
    if not _tried:
        start_from_environment(offer_providers=False)


def start_from_environment(*, offer_providers: bool) -> None:
    """Starts the zero-code session. A wrong setting is reported in one line, and the program goes on."""
    global _tried
    _tried = True
    if sdk_disabled():
        return
    if offer_providers and (path := declarative.path()):
        _start_from_file(path)
        return
    try:
        settings = resolve()
        given = os.environ.get(OTEL_LOGS_EXPORTER, "").strip()
        log_names = list(parse_backends(given, OTEL_LOGS_EXPORTER)) if given else None
        trace_names = parse_backends(os.environ.get(OTEL_TRACES_EXPORTER, ""), OTEL_TRACES_EXPORTER)
        process.start(
            settings,
            signals=process.signals(list(settings.backends), log_names),
            zero_code=True,
            offer_providers=offer_providers,
            trace_exporters=list(trace_names) if offer_providers else [],
        )
    except ConfigurationError as error:
        say(f"nothing is recorded: {error}")


def _start_from_file(path: str) -> None:
    """Starts the zero-code session beside what a configuration file sets up of OpenTelemetry."""
    try:
        declared = declarative.read(path)
        declared_sdk = declarative.set_up(declared)
        if not declared.sdk.disabled:
            process.start(resolve(), zero_code=True, offer_providers=False, declared_sdk=declared_sdk)
    except ConfigurationError as error:
        say(f"nothing is recorded: {error}")
