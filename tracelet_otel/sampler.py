"""Samples the machine while a run is open: CPU, memory, disks, network, this process, GPUs."""

from __future__ import annotations

import time
from typing import Any

from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
from opentelemetry.sdk.resources import Resource

from tracelet_otel.instrumentors import disabled

INTERVAL_S = 10.0
"""Between two samples."""


class Reader(MetricReader):
    """Collects when it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self._data: MetricsData | None = None

    def take(self) -> MetricsData | None:
        """Collects now."""
        self._data = None
        self.collect()
        return self._data

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        self._data = metrics_data

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Whoever asks stops asking; nothing to do here."""


class Sampler:
    """The machine's instruments, on a provider of their own: the session's is collected every second.

    Args:
        resource: describes this process and its run.
    """

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._reader: Reader | None = None
        self._next = time.monotonic() + INTERVAL_S

    def sample(self) -> MetricsData | None:
        """A sample, if one is due; used by the pipeline's thread alone."""
        if time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + INTERVAL_S
        if self._reader is None:
            self._reader = self._observe()
        return self._reader.take()

    def _observe(self) -> Reader:
        reader = Reader()
        provider = MeterProvider(
            metric_readers=[reader],
            resource=self._resource,
            exemplar_filter=AlwaysOffExemplarFilter(),
            shutdown_on_exit=False,
        )
        if not disabled("system_metrics"):
            from tracelet_otel.instrumentation import system  # psutil: not before a run needs it

            system.observe(provider)
        if not disabled("gpu"):
            from tracelet_otel.instrumentation import gpu

            gpu.observe(provider)
        return reader
