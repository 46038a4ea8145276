"""OpenTelemetry's private names that we use. A release may lack any one: then only what it says is lost."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, NamedTuple


class PrivateName(NamedTuple):
    """A name that a library does not promise to keep."""

    place: str
    """The module, or ``module:Class``."""
    name: str
    """Of an attribute there; empty for the module itself."""
    lost: str
    """What does not work without it."""

    def owner(self) -> Any:
        """What the name belongs to, or None."""
        module, _, path = self.place.partition(":")
        try:
            found = import_module(module)
        except ImportError:
            return None
        return getattr(found, path, None) if path else found

    def find(self) -> Any:
        """What has the name, or None."""
        return getattr(self.owner(), self.name, None) if self.name else self.owner()

    def of(self, instance: object, default: object = None) -> Any:
        """The attribute of an object; ``default`` if it has none."""
        return getattr(instance, self.name, default)


_METRICS: Final = "opentelemetry.metrics._internal"
_LOGS: Final = "opentelemetry._logs._internal"
_TRACES: Final = "opentelemetry.trace"
_METER_LOST: Final = "our meter provider is not made the global one"
_LOGGER_LOST: Final = "our logger provider is not made the global one"
_TRACER_LOST: Final = "the tracer provider for OTEL_TRACES_EXPORTER is not made the global one"
_SYSTEM_METRICS: Final = "opentelemetry.instrumentation.system_metrics:SystemMetricsInstrumentor"

ONCE: Final = PrivateName("opentelemetry.util._once", "Once", "our providers are not made the global ones")
METER_PROVIDER: Final = PrivateName(_METRICS, "_METER_PROVIDER", _METER_LOST)
METER_PROVIDER_ONCE: Final = PrivateName(_METRICS, "_METER_PROVIDER_SET_ONCE", _METER_LOST)
LOGGER_PROVIDER: Final = PrivateName(_LOGS, "_LOGGER_PROVIDER", _LOGGER_LOST)
LOGGER_PROVIDER_ONCE: Final = PrivateName(_LOGS, "_LOGGER_PROVIDER_SET_ONCE", _LOGGER_LOST)
TRACER_PROVIDER: Final = PrivateName(_TRACES, "_TRACER_PROVIDER", _TRACER_LOST)
TRACER_PROVIDER_ONCE: Final = PrivateName(_TRACES, "_TRACER_PROVIDER_SET_ONCE", _TRACER_LOST)
ENTRY_POINTS: Final = PrivateName(
    "opentelemetry.util._importlib_metadata",
    "entry_points",
    "the entry points are read again, which takes 8 ms",
)
LOG_ENCODER: Final = PrivateName(
    "opentelemetry.exporter.otlp.proto.common._log_encoder",
    "encode_logs",
    "records do not leave the process; points do",
)
SYSTEM_METRICS_INSTRUMENT: Final = PrivateName(
    _SYSTEM_METRICS, "_instrument", "OpenTelemetry's metrics of the machine are missing"
)
CPU_UTILIZATION: Final = PrivateName(
    _SYSTEM_METRICS, "_get_system_cpu_utilization", "the use of each CPU is measured for each thread apart"
)
FILE_LOADER_LOGGER: Final = "opentelemetry.configuration.file._loader"
"""The logger of the configuration file's loader. If it has another name, a mistake in the file is logged with
its traceback, beside our own message."""
