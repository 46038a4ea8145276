"""Recording into the SDK: what the gauge shows, and that a bound series loses nothing."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics import _Gauge as Gauge
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_span_in_context

from tracelet_otel import semconv
from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.recording.reservoir import EXEMPLAR_FILTER, lossless_views
from tracelet_otel.recording.run import Run, RunScope


class Recorded:
    """A recorder, and what its readers collect."""

    def __init__(self, *further: InMemoryMetricReader) -> None:
        self.run = Run()
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(
            [self.reader, *further],
            views=lossless_views(),
            exemplar_filter=EXEMPLAR_FILTER,
            shutdown_on_exit=False,
        )
        self.recorder = Recorder(self.provider, LoggerProvider(shutdown_on_exit=False), RunScope(self.run))

    def log(self, tag: str, value: float, step: int, time: int | None = 5) -> None:
        self.recorder.scalar((tag, value, step, time, False, None))

    def collect(self, reader: InMemoryMetricReader | None = None) -> dict[str, Any]:
        """The data point of each tag."""
        self.recorder.show()
        data: Any = (reader or self.reader).get_metrics_data()
        return {
            point.attributes[semconv.TAG]: point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == semconv.SCALAR
            for point in metric.data.data_points
        }


def steps(point: Any) -> list[int]:
    return [exemplar.filtered_attributes[semconv.STEP] for exemplar in point.exemplars]


def test_every_point_is_an_exemplar_and_the_gauge_shows_the_last() -> None:
    recorded = Recorded()
    for step in range(3):
        recorded.log("loss", 1.0 - step, step)
    recorded.log("other", 7.0, 4)
    found = recorded.collect()
    assert steps(found["loss"]) == [0, 1, 2]
    assert [exemplar.value for exemplar in found["loss"].exemplars] == [1.0, 0.0, -1.0]
    assert {tag: point.value for tag, point in found.items()} == {"loss": -1.0, "other": 7.0}
    recorded.log("loss", 3.5, 9)
    found = recorded.collect()
    assert (steps(found["loss"]), found["loss"].value) == ([9], 3.5)
    assert (steps(found["other"]), found["other"].value) == ([], 7.0)


def test_a_value_that_came_between_is_shown_by_the_next_collection() -> None:
    recorded = Recorded()
    recorded.log("loss", 1.0, 0)
    recorded.recorder.show()
    recorded.log("loss", 2.0, 1)  # as another thread may, while the pipeline is about to collect
    data = recorded.reader.get_metrics_data()
    assert data is not None
    assert (recorded.collect()["loss"].value, steps(recorded.collect()["loss"])) == (2.0, [])


def test_a_further_reader_gets_what_the_gauge_shows() -> None:
    # A reader that wants deltas has a new reservoir after each of its collections: nothing is kept for it.
    delta = InMemoryMetricReader({Gauge: AggregationTemporality.DELTA, Counter: AggregationTemporality.DELTA})
    recorded = Recorded(delta)
    for step in range(4):
        recorded.log("loss", float(step), step)
    first = recorded.collect(delta)["loss"]
    assert (first.value, list(first.exemplars)) == (3.0, [])
    recorded.log("loss", 8.0, 4)
    assert recorded.collect(delta)["loss"].value == 8.0
    assert steps(recorded.collect()["loss"]) == [0, 1, 2, 3, 4]


def test_the_span_and_the_time_of_each_point() -> None:
    recorded = Recorded()
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("epoch")
    recorded.log("loss", 1.0, 0)
    token = attach(set_span_in_context(span))
    recorded.log("loss", 2.0, 1)
    detach(token)
    recorded.log("loss", 3.0, 2, None)
    without, within, now = recorded.collect()["loss"].exemplars
    assert (without.span_id, without.trace_id, without.time_unix_nano) == (None, None, 5)
    ids = span.get_span_context()
    assert (within.span_id, within.trace_id) == (ids.span_id, ids.trace_id)
    assert now.time_unix_nano > 10**18


def test_nothing_is_lost_between_threads_that_begin_series() -> None:
    recorded = Recorded()
    started = threading.Barrier(5)

    def log(worker: int) -> None:
        started.wait()
        for step in range(5_000):
            recorded.log(f"tag-{step % 500}", float(worker), step)

    threads = [threading.Thread(target=log, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    found: dict[tuple[str, float], list[int]] = {}
    while True:
        alive = any(thread.is_alive() for thread in threads)
        for tag, point in recorded.collect().items():
            for exemplar in point.exemplars:
                step = exemplar.filtered_attributes[semconv.STEP]
                found.setdefault((tag, exemplar.value), []).append(step)
        if not alive:
            break
    expected = {
        (f"tag-{tag}", float(worker)): list(range(tag, 5_000, 500))
        for tag in range(500)
        for worker in range(4)
    }
    assert found == expected


def test_parameters_and_tags_are_masked_and_contents_are_not() -> None:
    payload = b'{"hub": {"api_key": "canary"}, "lr": 0.1}'
    logs, loggers = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    recorder = Recorder(MeterProvider(shutdown_on_exit=False), loggers, RunScope(Run()))
    for kind in ("params", "tags", "text"):
        recorder.event(LoggedEvent(kind, "", None, payload, "application/json", None, None, None))
    masked = b'{"hub": {"api_key": "***"}, "lr": 0.1}'
    assert [one.log_record.body for one in logs.get_finished_logs()] == [masked, masked, payload]


def test_a_disabled_sdk_costs_nothing_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    recorded = Recorded()
    recorded.log("loss", 1.0, 0)
    recorded.log("loss", 1.0, 1)
    assert recorded.collect() == {}


def test_one_thread_makes_its_folder_the_first() -> None:
    recorded, together = Recorded(), threading.Barrier(2, timeout=10)

    def choose(folder: str) -> str:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.2)  # where two threads get here, both go on
        return folder

    recorded.run.choose_first_folder = choose
    became: list[bool] = []
    threads = [
        threading.Thread(target=lambda: became.append(recorded.run.write_to("/runs/a"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(became) == [False, True]
