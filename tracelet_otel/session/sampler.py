"""Samples the machine while a run is open: CPU, memory, disks, network, this process, GPUs."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
from opentelemetry.sdk.resources import Resource

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.foundation.importing import IMPORTING
from tracelet_otel.instrumentation.instrumentors import disabled

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
        """Does nothing: the caller stops asking."""


class Sampler:
    """The machine's instruments, on a provider of their own: the session's is collected every second.

    In a thread of its own: a network folder that does not answer, or a driver that hangs, holds this up and
    nothing else.

    Args:
        resource: describes this process and its run.
        is_due: whether this process is the one to sample now.
    """

    def __init__(self, resource: Resource, is_due: Callable[[], bool]) -> None:
        self._resource = resource
        self._is_due = is_due
        self._samples: deque[MetricsData] = deque()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracelet-sampler", daemon=True)

    def start(self) -> None:
        """Samples from now on; the first time an interval from now."""
        with contextlib.suppress(RuntimeError):  # the interpreter is about to end: nothing to measure
            self._thread.start()

    def stop(self) -> None:
        """Ends sampling. Does not wait for a sample that is under way: that may hang."""
        self._stopped.set()

    def take(self) -> list[MetricsData]:
        """The samples since the last call."""
        return [self._samples.popleft() for _ in range(len(self._samples))]

    def _work(self) -> None:
        reader: Reader | None = None
        while not self._stopped.wait(INTERVAL_S):
            with Guard("sampling the machine"):
                if not self._is_due():
                    continue
                reader = reader or self._observe()
                sample = reader.take()
                if sample is not None:
                    self._samples.append(sample)

    def _observe(self) -> Reader:
        reader = Reader()
        provider = MeterProvider(
            metric_readers=[reader],
            resource=self._resource,
            exemplar_filter=AlwaysOffExemplarFilter(),
            shutdown_on_exit=False,
        )
        if not disabled("system_metrics"):
            with IMPORTING:  # psutil: not before a run needs it
                from tracelet_otel.instrumentation.machine import system

                system.observe(provider)
        if not disabled("gpu"):
            from tracelet_otel.instrumentation.machine import gpu

            gpu.observe(provider)
        return reader
