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
from tracelet_otel.delivery.spool import durable, spool
from tracelet_otel.delivery.spool.durable import DurableSpool
from tracelet_otel.delivery.spool.segments import POSITION
from tracelet_otel.delivery.spool.spool import Spool, read
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


@pytest.fixture(autouse=True)
def _small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few points are cut as many are."""
    monkeypatch.setattr(splitting, "MAX_EXEMPLARS", 12)
    monkeypatch.setattr(splitting, "MAX_POINTS_PER_REQUEST", 12)
    monkeypatch.setattr(splitting, "MAX_SERIES_PER_CUT", 4)
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 4000)
    monkeypatch.setattr(durable, "SEGMENT_BYTES", 4000)


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
    kept = Spool(folder, max_bytes=100 * MB)
    out: list[Request] = []
    for request in logged.requests:
        kept.append(as_batch(request))
        while kept and chance.random() < 0.4:
            out.append(as_request(kept.peek()))
            kept.remove()
    out_now = Decoded(out)
    kept.close()
    left = [as_request(batch) for batch in read(folder)]
    # The files hold what was removed too, until the last of a file is: a replay repeats, and loses nothing.
    for run_id in RUNS:
        assert not logged.points(run_id) - out_now.points(run_id) - Decoded(left).points(run_id)
    while kept:
        out.append(as_request(kept.peek()))
        kept.remove()
    check(Decoded(out), logged)
    assert Decoded(out).order == Decoded(logged.requests).order


@given(CALLS, st.data())
def test_a_spool_whose_last_line_is_torn_loses_that_line_alone(
    tmp_path: Path, calls: list[Call], data: st.DataObject
) -> None:
    logged = Logged(calls)
    folder = tmp_path / uuid.uuid4().hex
    kept = Spool(folder, max_bytes=100 * MB)
    for request in logged.requests:
        kept.append(as_batch(request))
    kept.close()
    whole = list(map(as_request, read(folder)))
    check(Decoded(whole), logged)
    if not whole:
        return
    path = data.draw(st.sampled_from(sorted(folder.glob("*.jsonl"))))
    last = len(path.read_bytes().splitlines(keepends=True)[-1])
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
    """A line that a killed process could not finish was acknowledged to nobody: its sender sends it again."""
    logged = Logged(calls)
    folder = tmp_path / uuid.uuid4().hex
    memory = data.draw(st.sampled_from([0, 500, MB]))
    kept = DurableSpool(folder / "0", max_bytes=100 * MB, max_memory_bytes=memory)
    out: list[Request] = []
    try:
        for number, request in enumerate(logged.requests, 1):
            if chance.random() < 0.2:
                left = shutil.copytree(kept.folder, folder / str(number))  # as it is in the middle
                kept.close()
                tear(left, as_batch(request), folder / "torn", chance)
                kept = DurableSpool(left, max_bytes=100 * MB, max_memory_bytes=memory)
            kept.append(as_batch(request))
            while kept and chance.random() < 0.4:
                out.append(as_request(kept.peek()))
                kept.remove()
        while kept:
            out.append(as_request(kept.peek()))
            kept.remove()
    finally:  # Hypothesis may leave an example in the middle
        kept.close()
    check(Decoded(out), logged)
    assert Decoded(out).order == Decoded(logged.requests).order
    assert [path.name for path in kept.folder.iterdir()] == [POSITION]


def tear(folder: Path, batch: Batch, elsewhere: Path, chance: random.Random) -> None:
    """A part of a batch's line, at the end of the newest file of its signal."""
    written = Spool(elsewhere, max_bytes=100 * MB)
    written.append(batch)
    [path] = elsewhere.glob("*.jsonl")
    line = path.read_bytes()
    shutil.rmtree(elsewhere)
    signal = path.name.split(".")[1]
    if newest := sorted(folder.glob(f"*.{signal}.jsonl")):
        with newest[-1].open("ab") as file:
            file.write(line[: chance.randrange(len(line))])


@settings(max_examples=40)
@given(CALLS, CHANCE, st.integers(1, 3))
def test_through_a_gateway_that_gets_it_in_any_order_and_again(
    tmp_path: Path, calls: list[Call], chance: random.Random, repeats: int
) -> None:
    logged = Logged(calls)
    folder = tmp_path / uuid.uuid4().hex
    station = Station(folder, fsync=False)
    try:
        for _ in range(repeats):
            for request in rebatched(cut(logged.requests, chance), chance):
                station.accept([request], *([[request]] * chance.randrange(2)))
        station.flush()
        counts = station.queues[0].delivery.counts
        assert counts.dropped_points == counts.dropped_records == 0
    finally:
        station.close()
    for run_id in RUNS:
        if logged.points(run_id) or logged.texts_of(run_id):
            assert station.points(run_id) == logged.points(run_id)
            texts = [(item.tag, item.step, item.content) for item in station.subject().media(run_id)]
            assert sorted(texts) == sorted(set(logged.texts_of(run_id)))
