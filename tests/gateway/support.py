"""A gateway's intake on a folder of JSON files, what real pipelines send to it, and what was written."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.resources import Resource

from tests.fifth_tracker.json_folder import JsonFolderTracker
from tests.support.contract_data import NOW, Request, Script
from tests.support.fifth_subject import FifthSubject
from tracelet_otel.delivery.routing import take_route
from tracelet_otel.delivery.spool.spool import Durability, Spool
from tracelet_otel.foundation.errors import TransientError
from tracelet_otel.gateway.backends import Backend, open_backend
from tracelet_otel.gateway.intake import Intake, IntakeResult
from tracelet_otel.gateway.runs import Runs
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.session.session import _resource
from tracelet_otel.tracker.exporter import TrackerExporter

MB = 1024 * 1024
Key = tuple[str, int, "float | str", int]


class Job(Script):
    """What one training process sends, with a resource that names its run."""

    def resource(self) -> Resource:
        return _resource(self.run)

    def steps(self, tag: str, steps: Iterable[int], value: Callable[[int], float] = float) -> list[Request]:
        """Logs a value a step, and collects."""
        for step in steps:
            self.log(tag, step, value(step), NOW + step * 1_000_000)
        return self.collect()

    @property
    def keys(self) -> Counter[Key]:
        """Everything logged."""
        return Counter(
            key(point.name, point.step, point.value, point.time_unix_nano) for point in self.logged
        )


class Away(JsonFolderTracker):
    """A tracker that cannot be reached, until it can."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.gone = True

    def open_run(self, run: RunInfo) -> str:
        if self.gone:
            raise TransientError("away")
        return super().open_run(run)

    def points(self, run_id: str) -> Counter[Key]:
        """What it has."""
        subject = FifthSubject(self._folder.parent)
        return Counter(key(tag, *point) for tag, points in subject.points(run_id).items() for point in points)


def rebatched(requests: Iterable[Request], chance: random.Random) -> list[Request]:
    """The same data points and records in other requests and another order, as a Collector may send them."""
    data_points: list[tuple[Any, Any, Any]] = []
    records: list[tuple[Any, Any]] = []
    for request in requests:
        if request.signal == "metrics":
            for resource in ExportMetricsServiceRequest.FromString(request.data).resource_metrics:
                for metric in resource.scope_metrics[0].metrics:
                    kind = metric.WhichOneof("data") or ""
                    data_points += [
                        (resource.resource, metric, point) for point in getattr(metric, kind).data_points
                    ]
        else:
            for resource in ExportLogsServiceRequest.FromString(request.data).resource_logs:
                records += [(resource.resource, record) for record in resource.scope_logs[0].log_records]
    chance.shuffle(data_points)
    made: list[Request] = []
    while data_points:
        message = ExportMetricsServiceRequest()
        for _ in range(min(len(data_points), chance.randrange(1, 8))):
            resource, metric, point = data_points.pop()
            target = message.resource_metrics.add()
            target.resource.CopyFrom(resource)
            copy = target.scope_metrics.add().metrics.add(name=metric.name)
            kind = metric.WhichOneof("data")
            for _ in range(chance.randrange(1, 3)):
                getattr(copy, kind).data_points.add().CopyFrom(point)
        made.append(Request("metrics", message.SerializeToString()))
    while records:
        message = ExportLogsServiceRequest()
        for _ in range(min(len(records), chance.randrange(1, 8))):
            resource, record = records.pop(0)
            target = message.resource_logs.add()
            target.resource.CopyFrom(resource)
            target.scope_logs.add().log_records.add().CopyFrom(record)
        made.append(Request("logs", message.SerializeToString()))
    chance.shuffle(made)
    return made


def key(tag: str, step: int, value: float, time: int) -> Key:
    """A point that can be counted: NaN is not equal to itself."""
    return (tag, step, "NaN" if math.isnan(value) else value, time)


class Station:
    """An intake with backends that are JSON folders; may be closed and opened again, as a process is."""

    def __init__(
        self,
        folder: Path,
        backends: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        clock: Callable[[], float] | None = None,
        silence: float = 900,
        **options: Any,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        arguments = {"clock": clock} if clock is not None else {}
        self.runs = Runs(folder / "runs.log", silence=silence, **arguments)
        limit = options.pop("max_spool_bytes", 100 * MB)
        durability = options.pop("durability", Durability.DISK)
        self.backends: list[Backend] = []
        for name, given in (backends or {"json": {}}).items():
            route, _ = take_route(name, given)
            tracker = options.pop("tracker", None) or JsonFolderTracker(folder / name / "runs")
            self.backends.append(
                open_backend(
                    name,
                    TrackerExporter(tracker, companions=folder / "companions" / name, known=self.runs),
                    route,
                    partial(Spool, folder / "spool" / name, max_bytes=limit, durability=durability),
                    runs=self.runs,
                    max_queue_bytes=MB,
                )
            )
        self.intake = Intake(self.backends, self.runs, **options)

    def send(self, *requests: Iterable[Request]) -> list[IntakeResult]:
        """Hands requests over, in order; what was answered."""
        return [self.intake.take(one.signal, one.data) for part in requests for one in part]

    def accept(self, *requests: Iterable[Request]) -> None:
        """Hands requests over, which have to be accepted."""
        assert {answer.kind for answer in self.send(*requests)} <= {"accepted"}

    def flush(self) -> None:
        """Waits until everything is with the backends."""
        for backend in self.backends:
            assert backend.delivery.flush(20)

    def close(self) -> None:
        """Ends everything."""
        for backend in self.backends:
            backend.delivery.close(20)
        self.runs.save()

    def subject(self, name: str = "json") -> FifthSubject:
        """What a backend has."""
        return FifthSubject(self.folder / name)

    def points(self, run_id: str, name: str = "json") -> Counter[Key]:
        """The points of a run that a backend has."""
        return Counter(
            key(tag, *point) for tag, points in self.subject(name).points(run_id).items() for point in points
        )
