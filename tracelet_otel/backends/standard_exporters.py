"""A backend that is any OpenTelemetry exporter."""

from __future__ import annotations

from collections.abc import Mapping
from os import environ
from typing import Any, Final

from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from tracelet_otel.backends.names import LOGS_GROUP, METRICS_GROUP, available
from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.foundation.entry_points import find
from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.otlp.json import Signal
from tracelet_otel.settings import ConfigurationError

MOST_FAILURES: Final = 3
"""Attempts at exporting records through an OpenTelemetry exporter, each with the exporter's own retries."""


class StandardExporters:
    """A backend that is an OpenTelemetry exporter: it gets the SDK's own objects.

    Raises:
        ConfigurationError: no exporter of that name is installed.
    """

    takes_otlp = False

    def __init__(self, name: str, options: Mapping[str, Any], signals: frozenset[Signal]) -> None:
        self.name = name
        self._options = dict(options)
        self._metrics_entry = find(METRICS_GROUP, name) if "metrics" in signals else None
        self._logs_entry = find(LOGS_GROUP, name) if "logs" in signals else None
        if self._metrics_entry is None and self._logs_entry is None:
            raise ConfigurationError(
                f"no backend {name!r} is installed; available are {', '.join(available())}"
            )
        self._failures = 0
        self._metrics: Any = None  # a MetricExporter; the types of both are only partly known
        self._logs: Any = None

    def load(self) -> None:
        """Imports and constructs the exporters."""
        try:
            if self._metrics_entry is not None and self._metrics is None:
                self._metrics = self._metrics_entry.load()(**self._options)
            if self._logs_entry is not None and self._logs is None:
                self._logs = self._logs_entry.load()(**self._options)
        except Exception as error:
            raise PermanentError(f"exporter {self.name} cannot be made: {error}") from error

    def connect(self) -> None:
        """The exporters connect by themselves."""

    def send(self, batch: Batch) -> Receipt:
        """Exports one batch; a FAILURE is taken as transient, since exporters do not say which it is."""
        failed = ""
        if self._metrics is not None and isinstance(batch.metrics, MetricsData):
            failed = "" if self._metrics.export(batch.metrics) is MetricExportResult.SUCCESS else "metrics"
        if self._logs is not None and isinstance(batch.logs, list):
            failed = "" if self._logs.export(batch.logs) is LogRecordExportResult.SUCCESS else "records"
        self._failures = self._failures + 1 if failed else 0
        if failed == "records" and self._failures >= MOST_FAILURES:
            # Many receivers take no logs at all, which an exporter's FAILURE does not tell.
            self._failures = 0
            raise PermanentError(f"exporter {self.name} refuses records")
        if failed:
            raise TransientError(f"exporter {self.name} could not export {failed}")
        return Receipt(batch.points, batch.records)

    def close(self) -> None:
        """Shuts the exporters down."""
        if self._metrics is not None:
            self._metrics.shutdown()
        if self._logs is not None:
            self._logs.shutdown()

    def locations(self) -> list[str]:
        """Unknown: the exporters do not say."""
        return []

    def refusals(self) -> str:
        """Unknown: the exporters do not say."""
        return ""


def traces_exporter(name: str) -> str:
    """The exporter of traces that ``otlp`` stands for; any other name is itself."""
    # As the SDK does: the variables say which protocol "otlp" means; gRPC is its default.
    # Source: OpenTelemetry specification, "OpenTelemetry Protocol Exporter".
    if name != "otlp":
        return name
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL")
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "grpc"
    ).strip()
    by_protocol = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
    if protocol not in by_protocol:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL must be one of {', '.join(sorted(by_protocol))}, got {protocol!r}"
        )
    return by_protocol[protocol]
