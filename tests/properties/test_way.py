"""Whatever is logged comes out as it was, once and in order, whatever way it takes."""

from __future__ import annotations

import random
import shutil
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.support import Station, rebatched
from tests.properties.strategies import CALLS, Call, Decoded, Logged, cut
from tests.support.contract_data import Request
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.spool import spool
from tracelet_otel.delivery.spool.frame import scan
from tracelet_otel.delivery.spool.queue import Queue
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.delivery.spool.segment import POSITION
from tracelet_otel.delivery.spool.spool import Durability, Spool
from tracelet_otel.otlp import splitting

CHANCE = st.integers(0, 2**32).map(random.Random)  # Hypothesis's own nearly always draws 0.0
RUNS = ("run-a", "run-b")
MB = 1024 * 1024


def check(decoded: Decoded, logged: Logged) -> None:
    """Everything, once."""
    for run_id in RUNS:
        assert decoded.points(run_id) == logged.points(run_id)
        assert decoded.texts_of(run_id) == logged.texts_of(run_id)


def as_batch(request: Request) -> Batch:
    if request.signal == "logs":
        return Batch(logs=request.data, records=1, size=len(request.data))
    points = sum(Decoded([request]).points(run_id).total() for run_id in RUNS)
    return Batch(metrics=request.data, points=points, size=len(request.data))


def as_request(batch: Batch | None) -> Request:
    assert batch is not None
    if isinstance(batch.logs, bytes):
        return Request("logs", batch.logs)
    assert isinstance(batch.metrics, bytes)
    return Request("metrics", batch.metrics)


def queue_in(folder: Path, durability: Durability, memory: int = MB) -> Queue:
    return Queue("place", max_bytes=memory, spool=Spool(folder, max_bytes=100 * MB, durability=durability))


def folder_of(queue: Queue) -> Path:
    assert queue.spool is not None
    return queue.spool.folder


@pytest.fixture(autouse=True)
def _small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few points are cut as many are."""
    monkeypatch.setattr(splitting, "MAX_EXEMPLARS", 12)
    monkeypatch.setattr(splitting, "MAX_POINTS_PER_REQUEST", 12)
    monkeypatch.setattr(splitting, "MAX_SERIES_PER_CUT", 4)
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 4000)


@given(CALLS, CHANCE)
def test_collected_and_cut_in_any_way(calls: list[Call], chance: random.Random) -> None:
    logged = Logged(calls)
    whole, parts = Decoded(logged.requests), Decoded(cut(logged.requests, chance))
    check(whole, logged)
    check(parts, logged)
    assert parts.order == whole.order


@given(CALLS, CHANCE)
def test_through_a_spool_that_is_drained_meanwhile(
    tmp_path: Path, calls: list[Call], chance: random.Random
) -> None:
    logged = Logged(calls)
    folder = tmp_path / uuid.uuid4().hex
    kept = queue_in(folder, Durability.MEMORY)
    out: list[Request] = []
    for request in logged.requests:
        kept.append(as_batch(request), away=True)
        while kept and chance.random() < 0.4:
            out.append(as_request(kept.take()))
            kept.done()
    kept.close()
    left = [as_request(batch) for batch in read(folder)] if folder.exists() else []
    check(Decoded(out + left), logged)
    while kept:
        out.append(as_request(kept.take()))
        kept.done()
    check(Decoded(out), logged)
    assert Decoded(out).order == Decoded(logged.requests).order


@given(CALLS, st.data())
def test_a_spool_whose_last_request_is_torn_loses_that_one_alone(
    tmp_path: Path, calls: list[Call], data: st.DataObject
) -> None:
    logged = Logged(calls)
    folder = tmp_path / uuid.uuid4().hex
    kept = queue_in(folder, Durability.MEMORY)
    for request in logged.requests:
        kept.append(as_batch(request), away=True)
    kept.close()
    whole = list(map(as_request, read(folder))) if folder.exists() else []
    check(Decoded(whole), logged)
    if not whole:
        return
    path = data.draw(st.sampled_from(sorted(folder.glob("*.otlp"))))
    with path.open("rb", buffering=0) as file:
        *_, frame = scan(file, 0, path.stat().st_size)
    last = frame.end - frame.start
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - data.draw(st.integers(1, last)))
    left = list(map(as_request, read(folder)))
    assert len(left) == len(whole) - 1
    lost = list(whole)
    for request in left:
        lost.remove(request)
    assert Decoded(left + lost).points("run-a") == logged.points("run-a")


@given(CALLS, CHANCE, st.data())
def test_through_a_durable_spool_that_is_killed(
    tmp_path: Path, calls: list[Call], chance: random.Random, data: st.DataObject
) -> None:
    """What a killed process could not finish was acknowledged to nobody: its sender sends it again."""
    logged = Logged(calls)
    folder = tmp_path / uuid.uuid4().hex
    memory = data.draw(st.sampled_from([0, 500, MB]))
    kept = queue_in(folder / "0", Durability.DISK, memory)
    out: list[Request] = []
    try:
        for number, request in enumerate(logged.requests, 1):
            if chance.random() < 0.2:
                left = shutil.copytree(folder_of(kept), folder / str(number))  # as it is in the middle
                kept.close()
                tear(left, as_batch(request), folder / "torn", chance)
                kept = queue_in(left, Durability.DISK, memory)
            kept.append(as_batch(request))
            while kept and chance.random() < 0.4:
                out.append(as_request(kept.take()))
                kept.done()
        while kept:
            out.append(as_request(kept.take()))
            kept.done()
    finally:  # Hypothesis may leave an example in the middle
        kept.close()
    check(Decoded(out), logged)
    assert Decoded(out).order == Decoded(logged.requests).order
    assert {path.name for path in folder_of(kept).iterdir()} <= {POSITION}


def tear(folder: Path, batch: Batch, elsewhere: Path, chance: random.Random) -> None:
    """A part of a batch's frame, at the end of the newest segment."""
    written = Spool(elsewhere, max_bytes=100 * MB)
    written.append(batch)
    [path] = elsewhere.glob("*.otlp")
    frame = path.read_bytes()
    shutil.rmtree(elsewhere)
    if newest := sorted(folder.glob("*.otlp")):
        with newest[-1].open("ab") as file:
            file.write(frame[: chance.randrange(len(frame))])


@settings(max_examples=40)
@given(CALLS, CHANCE, st.integers(1, 3))
def test_through_a_gateway_that_gets_it_in_any_order_and_again(
    tmp_path: Path, calls: list[Call], chance: random.Random, repeats: int
) -> None:
    logged = Logged(calls)
    folder = tmp_path / uuid.uuid4().hex
    station = Station(folder, durability=Durability.PROCESS)
    try:
        for _ in range(repeats):
            for request in rebatched(cut(logged.requests, chance), chance):
                station.accept([request], *([[request]] * chance.randrange(2)))
        station.flush()
        counts = station.backends[0].delivery.counts
        assert counts.dropped_points == counts.dropped_records == 0
    finally:
        station.close()
    for run_id in RUNS:
        if logged.points(run_id) or logged.texts_of(run_id):
            assert station.points(run_id) == logged.points(run_id)
            texts = [(item.tag, item.step, item.content) for item in station.subject().media(run_id)]
            assert sorted(texts) == sorted(set(logged.texts_of(run_id)))
