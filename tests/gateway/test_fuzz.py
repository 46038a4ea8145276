"""Malformed requests: made of valid ones by a fixed seed, thousands of them.

What each of them validly holds is found out here by a walk over protobuf's messages of its own. Nothing may
be in the tracker but that; and runs that are written at the same time, whose ids are in none of the requests
that the malformed ones are made of, have exactly their own.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import random
import struct
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tests.gateway.process import Client, Gateway
from tests.gateway.support import Job, Station, key
from tests.gateway.test_runs import Clock, machine
from tests.gateway.test_servers import JSON, PROTOCOLS, client, points
from tests.support.contract_data import Request
from tests.support.fifth_subject import FifthSubject
from tracelet_otel.delivery.spool.spool import Durability

COUNT = 10_000
MESSAGES: dict[str, Any] = {"metrics": ExportMetricsServiceRequest, "logs": ExportLogsServiceRequest}


def valid(chance: random.Random) -> list[Request]:
    """What a small job sends, with a run id that is its own."""
    job = Job(
        uuid.UUID(int=chance.getrandbits(128)).hex, name="n", project="p", rank=chance.choice((None, 1))
    )
    job.log("nan", 1, math.nan)
    requests = job.begin()
    for part in range(3):
        requests += job.steps("loss", range(part * 9, part * 9 + chance.randrange(1, 12)))
        requests += job.record("params", payload=b'{"a": {"b": 1}}', mime_type="application/json")
        requests += job.record("text", "note", part, b"hello", "text/plain")
    requests += [machine(job.run.id, 1.0)]
    return requests + job.end("finished")


# -- mutations --------------------------------------------------------------------------------------------


def flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def cut_out(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.randrange(1, 20) :]


def insert(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + chance.randbytes(chance.randrange(1, 20)) + data[start:]


def repeat_part(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    part = data[start : start + chance.randrange(1, 200)]
    return data[:start] + part * chance.randrange(2, 5) + data[start:]


def noise(data: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(200))


def twice(data: bytes, chance: random.Random) -> bytes:
    return data + data


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip,
    flip,
    flip,
    truncate,
    cut_out,
    insert,
    repeat_part,
    noise,
    twice,
)


def rework(message: Any, chance: random.Random) -> None:
    """Changes one field somewhere: sets it to another value, removes it, repeats or moves it."""
    found: list[tuple[Any, FieldDescriptor, Any]] = []

    def walk(one: Any) -> None:
        for field, value in one.ListFields():
            found.append((one, field, value))
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                for item in value if field.is_repeated else [value]:
                    walk(item)

    walk(message)
    if not found:
        return
    owner, field, value = chance.choice(found)
    if field.is_repeated and field.type == FieldDescriptor.TYPE_MESSAGE:
        choice = chance.randrange(4)
        items = [type(item).FromString(item.SerializeToString()) for item in value]
        del value[:]
        if choice == 0:
            items = items * chance.randrange(2, 4)
        elif choice == 1:
            chance.shuffle(items)
        elif choice == 2:
            items = items[: chance.randrange(len(items))]
        else:
            items.insert(chance.randrange(len(items) + 1), type(items[0])())
        value.extend(items)
    elif field.is_repeated or chance.random() < 0.3:
        owner.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if isinstance(value, AnyValue):
            value.CopyFrom(any_value(chance))
        else:
            owner.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_STRING:
        odd = ("", "x" * 5000, "\0", "\ud7ff\ue000", "../../x", "tracelet.run", "tracelet.run.id", "NaN")
        setattr(owner, field.name, chance.choice(odd))
    elif field.type == FieldDescriptor.TYPE_BYTES:
        setattr(owner, field.name, chance.randbytes(chance.randrange(30)))
    elif field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        setattr(owner, field.name, chance.choice((math.nan, math.inf, -0.0, 1e308, 5e-324)))
    elif field.type != FieldDescriptor.TYPE_BOOL:
        for number in (chance.choice((0, 1, 2**31 - 1, 2**63 - 1, 2**64 - 1, -1, -(2**63))), 1):
            try:
                setattr(owner, field.name, number)
            except (ValueError, OverflowError):
                continue
            break


def any_value(chance: random.Random, depth: int = 0) -> AnyValue:
    value = AnyValue()
    choice = chance.randrange(8)
    if choice == 0:
        value.string_value = chance.choice(("", "first", "finished", "x" * 3000))
    elif choice == 1:
        value.int_value = chance.choice((0, -1, 2**63 - 1))
    elif choice == 2:
        value.double_value = chance.choice((1.5, math.nan, math.inf))
    elif choice == 3:
        value.bool_value = True
    elif choice == 4:
        value.bytes_value = b"\xff\0"
    elif choice == 5 and depth < 40:
        value.array_value.values.extend([any_value(chance, depth + 1)] * 2 if depth < 3 else [AnyValue()])
    elif choice == 6:
        deep = value
        for _ in range(chance.randrange(1, 30)):
            item = deep.kvlist_value.values.add(key="k")
            deep = item.value
    return value


def malformed(pool: list[Request], chance: random.Random) -> Request:
    """One request that came of a valid one, or of two."""
    request = chance.choice(pool)
    signal, data = request.signal, request.data
    if chance.random() < 0.5:
        message = MESSAGES[signal].FromString(data)
        if chance.random() < 0.2:
            message.MergeFrom(
                MESSAGES[signal].FromString(chance.choice([one for one in pool if one.signal == signal]).data)
            )
        try:
            for _ in range(chance.randrange(1, 4)):
                rework(message, chance)
        except DecodeError:  # nested too deep even to be copied
            pass
        data = message.SerializeToString()
    else:
        data = chance.choice(BYTES)(data, chance)
    if chance.random() < 0.03:  # at the wrong door
        signal = "logs" if signal == "metrics" else "metrics"
    return Request(signal, data)


# -- what a request validly holds -------------------------------------------------------------------------


class Oracle:
    """Everything that was validly sent, by run."""

    def __init__(self) -> None:
        self.points: defaultdict[str, set[Any]] = defaultdict(set)
        self.runs: set[str] = set()
        self.others: defaultdict[str, dict[str, set[Any]]] = defaultdict(dict)
        """Of other instruments: by run and name, values with their times."""

    def note(self, request: Request) -> None:
        try:
            message: Message = MESSAGES[request.signal].FromString(request.data)
        except DecodeError:
            return
        if isinstance(message, ExportMetricsServiceRequest):
            self._metrics(message)
        elif isinstance(message, ExportLogsServiceRequest):
            for resource in message.resource_logs:
                for scope in resource.scope_logs:
                    for record in scope.log_records:
                        if isinstance(run := attribute(record.attributes, "tracelet.run.id"), str):
                            self.runs.add(run)

    def _metrics(self, message: ExportMetricsServiceRequest) -> None:
        for resource in message.resource_metrics:
            named = attribute(resource.resource.attributes, "tracelet.run.id")
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == "training.scalar":
                        self._series(metric.gauge.data_points)
                    elif metric.name == "training.scalar.nonfinite":
                        self._series(metric.sum.data_points)
                    elif isinstance(named, str):
                        self.runs.add(named)
                        self._other(metric, self.others[named].setdefault(metric.name, set()))

    def _other(self, metric: Any, found: set[Any]) -> None:
        for some in (metric.gauge.data_points, metric.sum.data_points):
            for point in some:
                value = point.as_double if point.HasField("as_double") else float(point.as_int)
                found.add(exact("", 0, value, point.time_unix_nano)[2:])
        for some in (metric.histogram.data_points, metric.exponential_histogram.data_points):
            for point in some:
                values = (float(point.count), point.sum, point.min, point.max)
                found |= {exact("", 0, value, point.time_unix_nano)[2:] for value in values}

    def _series(self, data_points: Any) -> None:
        for point in data_points:
            run = attribute(point.attributes, "tracelet.run.id")
            tag = attribute(point.attributes, "tracelet.tag")
            rank = attribute(point.attributes, "tracelet.rank")
            special = attribute(point.attributes, "tracelet.value")
            if not isinstance(run, str) or not isinstance(tag, str):
                continue
            self.runs.add(run)
            for exemplar in point.exemplars:
                step = attribute(exemplar.filtered_attributes, "tracelet.step") or 0
                value = exemplar.as_double if exemplar.HasField("as_double") else float(exemplar.as_int)
                if special in ("NaN", "Infinity", "-Infinity"):
                    value = float(str(special))
                name = f"{tag}/rank_{rank}" if rank else tag
                if isinstance(step, (int, float)) and math.isfinite(step):
                    self.points[run].add(exact(name, int(step), value, exemplar.time_unix_nano))


def attribute(attributes: Iterable[KeyValue], name: str) -> Any:
    """The last one's value, if it is a text, a number or a truth."""
    found: Any = None
    for item in attributes:
        if item.key == name:
            which = item.value.WhichOneof("value")
            simple = which in ("string_value", "int_value", "double_value", "bool_value")
            found = getattr(item.value, which) if which and simple else None
    return found


def exact(tag: str, step: int, value: float, time: int) -> Any:
    """A point whose value is its bits."""
    bits = b"NaN" if math.isnan(value) else struct.pack(">d", value)
    return (tag, step, bits, time)


def check_content(folder: Path, oracle: Oracle) -> tuple[int, int]:
    """Whether all that the tracker has was validly sent to that very run; how many runs and points it has."""
    subject = FifthSubject(folder)
    count = runs = 0
    for about in (folder / "runs").glob("*/run.json"):
        run_id = json.loads(about.read_bytes())["id"]
        assert run_id in oracle.runs, run_id
        runs += 1
        for tag, stored in subject.points(run_id).items():
            for point in stored:
                count += 1
                one = exact(tag, *point)
                others = oracle.others[run_id].items()
                assert one in oracle.points[run_id] or any(
                    tag.startswith(name) and one[2:] in values for name, values in others
                ), (run_id, tag, point)
    return runs, count


# -- tests ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_thousand_malformed_requests_harm_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(20_261_127)
    clock = Clock()
    station = Station(tmp_path, clock=clock, silence=900, durability=Durability.PROCESS)
    oracle = Oracle()
    victims = [Job(f"victim {number}", name="v") for number in range(5)]
    for victim in victims:
        station.accept(victim.begin())
    pool = [request for _ in range(40) for request in valid(chance)]
    kinds: Counter[str] = Counter()
    process = psutil.Process()
    sizes: list[int] = []
    with caplog.at_level(logging.WARNING):
        for number in range(COUNT):
            request = malformed(pool, chance)
            oracle.note(request)
            [answer] = station.send([request])
            kinds[answer.kind] += 1
            assert answer.kind != "unavailable", (answer, request)
            if number % 50 == 0:
                victim = victims[number // 50 % 5]
                station.accept(victim.steps("loss", range(number, number + 5)))
            if number % 500 == 499:
                clock.now += 500
                station.intake.tick()
                station.flush()
                gc.collect()
                sizes.append(process.memory_info().rss)
                pool = [request for _ in range(40) for request in valid(chance)]
    for victim in victims:
        station.accept(victim.end("finished"))
    station.flush()
    assert min(kinds[kind] for kind in ("accepted", "partial", "invalid")) > 500, kinds
    assert "Traceback" not in caplog.text
    assert "it is not tried again" not in caplog.text  # no batch that a delivery choked on
    for victim in victims:
        oracle.runs.add(victim.run.id)
        oracle.points[victim.run.id] |= {
            exact(point.name, point.step, point.value, point.time_unix_nano) for point in victim.logged
        }
        assert station.points(victim.run.id) == victim.keys
        assert station.subject().status(victim.run.id) == "finished"
    runs, count = check_content(tmp_path / "json", oracle)
    assert runs > 100
    assert count > 1000
    delivery = station.backends[0].delivery
    assert delivery.counts.dropped_points == 0
    # The second half needs no more memory than the first: what is kept of runs is kept for a while only.
    assert max(sizes[len(sizes) // 2 :]) - max(sizes[2 : len(sizes) // 2]) < 25 * 2**20, sizes
    station.close()


@pytest.mark.slow
def test_malformed_requests_over_the_wire(tmp_path: Path) -> None:
    chance = random.Random(4317)
    oracle = Oracle()
    victim = Job("victim")
    pool = [request for _ in range(10) for request in valid(chance)]
    with Gateway(tmp_path, *JSON) as gateway:
        senders = [
            client(gateway, protocol, compressed=zipped) for protocol in PROTOCOLS for zipped in (0, 1)
        ]
        for number in range(600):
            request = malformed(pool, chance)
            oracle.note(request)
            sender: Client = senders[number % 4]
            code = sender.send(request.signal, request.data).code
            assert code in ("OK", "200", "INVALID_ARGUMENT", "400"), (code, gateway.raw)
            if number % 50 == 0:
                sender.accept(victim.steps("loss", range(number, number + 5)))
        address = f"http://{gateway.http}"
        for _ in range(200):  # and what is no OTLP at all
            data = chance.choice(pool).data
            headers = {
                "content-type": chance.choice(("application/x-protobuf", "application/json", "", "\xe4")),
                "content-encoding": chance.choice(("gzip", "", "identity")),
            }
            path = chance.choice(("/v1/metrics", "/v1/logs", "/v1/traces", "/", "/v1/metrics/../x"))
            encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            content = chance.choice((data, data[:20], b"{}", b"[[[[", b'{"resourceMetrics": 3}'))
            status = httpx.post(address + path, content=content, headers=encoded).status_code
            assert status in (200, 400, 404, 415), (status, path, headers)
        senders[0].accept(victim.end("finished"))
        for sender in senders:
            sender.close()
        assert gateway.stop() == 0
        assert not any("error" in line for line in gateway.lines), gateway.raw
    oracle.runs.add("victim")
    oracle.points["victim"] = {
        exact(point.name, point.step, point.value, point.time_unix_nano) for point in victim.logged
    }
    assert points(tmp_path, "victim") == victim.keys
    # What came as JSON, or without a gzip around it, is in the pool.
    for request in pool:
        oracle.note(request)
    check_content(tmp_path / "json", oracle)


def test_the_walk_finds_what_is_sent() -> None:
    """The oracle itself: a valid request holds its points and nothing else."""
    job = Job("run-a", rank=1)
    job.log("nan", 1, -math.inf)
    oracle = Oracle()
    for request in job.begin() + job.steps("loss", range(20)):
        oracle.note(request)
    assert oracle.runs == {"run-a"}
    found = Counter(
        key(tag, step, math.nan if bits == b"NaN" else struct.unpack(">d", bits)[0], time)
        for tag, step, bits, time in oracle.points["run-a"]
    )
    assert found == job.keys
