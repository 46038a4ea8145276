"""What scripts may log, as Hypothesis makes it: odd tags, values and steps, collected at any moment."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.gateway.support import Job, Key, key
from tests.support.contract_data import NOW, Request
from tracelet_otel.otlp.decoding import decode_records, decode_series, parse_logs, parse_metrics
from tracelet_otel.otlp.records import Record
from tracelet_otel.otlp.request_splitting import halve

TAGS: Final = st.text(max_size=6) | st.sampled_from(
    [
        "",
        "loss",
        "loss ",
        "a/b",
        "tracelet.tag",
        '","tracelet.source":',
        "\x00",
        "\u2028",
        "\U0010ffff",
        "x" * 300,
    ]
)
STEPS: Final = st.integers(-3, 300) | st.integers(-(2**63), 2**63 - 1)
TIMES: Final = st.integers(NOW, NOW + 5) | st.integers(1, 2**63 - 1)


class Point(NamedTuple):
    """A call of ``log_scalar``, as often as said, with steps that go on."""

    job: int
    tag: str
    value: float
    step: int
    time_unix_nano: int
    times: int


class Text(NamedTuple):
    """A call of ``log_text`` or its like."""

    job: int
    tag: str
    step: int | None
    payload: bytes


class Collect(NamedTuple):
    """The pipeline collects."""

    job: int


Call = Point | Text | Collect
_JOBS: Final = st.integers(0, 2)
_TIMES_LOGGED: Final = st.just(1) | st.integers(1, 30)  # exemplars that are read as a table, too
CALLS: Final = st.lists(
    st.builds(Point, _JOBS, TAGS, st.floats(), STEPS, TIMES, _TIMES_LOGGED)
    | st.builds(Text, _JOBS, TAGS, st.none() | STEPS, st.binary(max_size=40))
    | st.builds(Collect, _JOBS),
    max_size=25,
)


class Texts(NamedTuple):
    """A record that can be counted."""

    tag: str
    step: int
    payload: bytes


class Logged:
    """What three processes logged: two ranks of one run, and another run."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.jobs = [Job("run-a", rank=0), Job("run-a", rank=1), Job("run-b")]
        self.texts: list[list[Texts]] = [[], [], []]
        self.requests: list[Request] = []
        """In the order in which they were made."""
        for call in calls:
            self._make(call)
        for job in self.jobs:
            self.requests += job.collect()

    def points(self, run_id: str) -> Counter[Key]:
        """All points of a run."""
        return sum((job.keys for job in self.jobs if job.run.id == run_id), Counter[Key]())

    def texts_of(self, run_id: str) -> Counter[Texts]:
        """All records of a run."""
        own = zip(self.jobs, self.texts, strict=True)
        return Counter(text for job, texts in own if job.run.id == run_id for text in texts)

    def _make(self, call: Call) -> None:
        job = self.jobs[call.job]
        if isinstance(call, Collect):
            self.requests += job.collect()
        elif isinstance(call, Text):
            self.requests += job.record("text", call.tag, call.step, call.payload, "text/plain")
            self.texts[call.job].append(Texts(call.tag, call.step or 0, call.payload))
        else:
            for number in range(call.times):
                step = min(call.step + number, 2**63 - 1)
                job.log(call.tag, step, call.value, min(call.time_unix_nano + number, 2**63 - 1))


class Decoded:
    """What requests hold."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._points: dict[str, Counter[Key]] = {}
        self._texts: dict[str, Counter[Texts]] = {}
        self.order: dict[Any, list[tuple[int, int]]] = {}
        """By series and kind of value: (step, time) in the order in which they came."""
        for request in requests:
            if request.signal == "metrics":
                self._metrics(request.data)
            else:
                for record in decode_records(parse_logs(request.data)):
                    self._record(record)

    def points(self, run_id: str) -> Counter[Key]:
        """All points of a run."""
        return self._points.get(run_id, Counter())

    def texts_of(self, run_id: str) -> Counter[Texts]:
        """All records of a run."""
        return self._texts.get(run_id, Counter())

    def _metrics(self, data: bytes) -> None:
        for series in decode_series(parse_metrics(data)):
            tag = f"{series.tag}/rank_{series.rank}" if series.rank else series.tag
            for step, value, time in series.points:
                one = key(tag, step, value, time)
                self._points.setdefault(series.run_id, Counter())[one] += 1
                special = one[2] if one[2] in ("NaN", float("inf"), float("-inf")) else None
                self.order.setdefault((series.run_id, tag, special), []).append((step, time))

    def _record(self, record: Record) -> None:
        if record.kind == "text":
            text = Texts(record.tag, record.step, record.read())
            self._texts.setdefault(record.run_id, Counter())[text] += 1


def cut(requests: Sequence[Request], chance: random.Random) -> list[Request]:
    """The same in smaller requests, in order: halved, and halved again, as a receiver asks for."""
    made: list[Request] = []
    for request in requests:
        halves = _halved(request) if chance.random() < 0.5 else None
        made += cut(halves, chance) if halves else [request]
    return made


def _halved(request: Request) -> list[Request] | None:
    kind: Any = ExportMetricsServiceRequest if request.signal == "metrics" else ExportLogsServiceRequest
    halves = halve(kind.FromString(request.data))
    return [Request(request.signal, half.SerializeToString()) for half in halves] if halves else None
