"""OpenTelemetry's private names that we use."""

from __future__ import annotations

from typing import Final

from tracelet_otel.foundation.private_names import PrivateNames

OPENTELEMETRY: Final = PrivateNames("OpenTelemetry", "opentelemetry-api")

_METRICS: Final = "opentelemetry.metrics._internal"
_LOGS: Final = "opentelemetry._logs._internal"
_METER_LOST: Final = "our meter provider is not made the global one"
_LOGGER_LOST: Final = "our logger provider is not made the global one"
_TRACER_LOST: Final = "the tracer provider for OTEL_TRACES_EXPORTER is not made the global one"
_SYSTEM_METRICS: Final = "opentelemetry.instrumentation.system_metrics:SystemMetricsInstrumentor"

ONCE: Final = OPENTELEMETRY.optional(
    "opentelemetry.util._once:Once", "our providers are not made the global ones"
)
METER_PROVIDER: Final = OPENTELEMETRY.optional(f"{_METRICS}:_METER_PROVIDER", _METER_LOST)
METER_PROVIDER_ONCE: Final = OPENTELEMETRY.optional(f"{_METRICS}:_METER_PROVIDER_SET_ONCE", _METER_LOST)
LOGGER_PROVIDER: Final = OPENTELEMETRY.optional(f"{_LOGS}:_LOGGER_PROVIDER", _LOGGER_LOST)
LOGGER_PROVIDER_ONCE: Final = OPENTELEMETRY.optional(f"{_LOGS}:_LOGGER_PROVIDER_SET_ONCE", _LOGGER_LOST)
TRACER_PROVIDER: Final = OPENTELEMETRY.optional("opentelemetry.trace:_TRACER_PROVIDER", _TRACER_LOST)
TRACER_PROVIDER_ONCE: Final = OPENTELEMETRY.optional(
    "opentelemetry.trace:_TRACER_PROVIDER_SET_ONCE", _TRACER_LOST
)
ENTRY_POINTS: Final = OPENTELEMETRY.optional(
    "opentelemetry.util._importlib_metadata:entry_points", "the entry points are read again, which takes 8 ms"
)
LOG_ENCODER: Final = OPENTELEMETRY.optional(
    "opentelemetry.exporter.otlp.proto.common._log_encoder:encode_logs",
    "records do not leave the process; points do",
)
SYSTEM_METRICS_INSTRUMENT: Final = OPENTELEMETRY.optional(
    f"{_SYSTEM_METRICS}._instrument", "OpenTelemetry's metrics of the machine are missing"
)
CPU_UTILIZATION: Final = OPENTELEMETRY.optional(
    f"{_SYSTEM_METRICS}._get_system_cpu_utilization", "the use of each CPU is measured for each thread apart"
)
SYSTEM_PROCESS: Final = OPENTELEMETRY.optional(
    f"{_SYSTEM_METRICS}()._proc", "the first value of the use of the CPU by this process is 0"
)
SYSTEM_OBSERVER_PREFIX: Final = "_get_"
"""Of the methods that measure the machine. If they have another name, one that fails stops the others."""
FILE_LOADER_LOGGER: Final = "opentelemetry.configuration.file._loader"
"""The logger of the configuration file's loader. If it has another name, a mistake in the file is logged with
its traceback, beside our own message."""
