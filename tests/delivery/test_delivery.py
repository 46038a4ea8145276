from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.spool.test_spool import metrics
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.otlp.decoding import decode_series, parse_metrics


class Place:
    """A destination in memory that fails as it is told to."""

    takes_otlp = True

    def __init__(self, *, fail: Callable[[int], Exception | None] = lambda attempt: None) -> None:
        self.attempts = 0
        self.connects = 0
        self.closed = threading.Event()
        self.received: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self._fail = fail

    def load(self) -> None:
        pass

    def connect(self) -> None:
        self.connects += 1

    def send(self, batch: Batch) -> Receipt:
        self.entered.set()
        self.gate.wait(30)
        self.attempts += 1
        error = self._fail(self.attempts)
        if error is not None:
            raise error
        assert isinstance(batch.metrics, bytes)
        self.received.append(batch.metrics)
        return Receipt(batch.points, batch.records)

    def close(self) -> None:
        self.closed.set()

    def locations(self) -> list[str]:
        return []

    def refusals(self) -> str:
        return ""


def batch(number: int, points: int = 1) -> Batch:
    return Batch(metrics=b"%d" % number, points=points, size=100)


def test_batches_arrive_in_order_and_are_counted() -> None:
    place = Place()
    delivery = Delivery("place", place, max_queue_bytes=10**6)
    for number in range(100):
        delivery.put(batch(number, points=2))
    assert delivery.flush(5)
    assert place.received == [b"%d" % number for number in range(100)]
    assert (delivery.counts.captured_points, delivery.counts.delivered_points) == (200, 200)
    assert place.connects == 1
    assert delivery.close(5)
    assert place.closed.is_set()


def test_nothing_is_connected_before_there_is_data() -> None:
    place = Place()
    delivery = Delivery("place", place, max_queue_bytes=10**6)
    assert delivery.close(5)
    assert place.connects == 0


def test_a_transient_error_is_tried_again_and_keeps_the_order() -> None:
    place = Place(fail=lambda attempt: TransientError("down") if attempt <= 2 else None)
    delivery = Delivery("place", place, max_queue_bytes=10**6)
    for number in range(3):
        delivery.put(batch(number))
    assert delivery.close(10)
    assert place.received == [b"0", b"1", b"2"]
    assert delivery.counts.dropped_points == 0


def test_a_permanent_error_and_a_defect_cost_their_batch_only() -> None:
    errors = {1: PermanentError("bad"), 2: RuntimeError("defect")}
    place = Place(fail=errors.get)
    delivery = Delivery("place", place, max_queue_bytes=10**6)
    for number in range(3):
        delivery.put(batch(number))
    assert delivery.close(5)
    assert place.received == [b"2"]
    assert delivery.counts.dropped_points == 2
    assert "defect" in delivery.last_error


def test_a_full_queue_drops_and_counts_and_never_waits() -> None:
    place = Place()
    place.gate.clear()
    delivery = Delivery("place", place, max_queue_bytes=250)
    delivery.put(batch(0))
    assert place.entered.wait(5)
    started = time.monotonic()
    for number in range(1, 10):
        delivery.put(batch(number))
    assert time.monotonic() - started < 1
    place.gate.set()
    assert delivery.close(5)
    assert place.received == [b"0", b"1"]
    assert delivery.counts.dropped_points == 8
    assert delivery.last_error == "its queue is full"


def test_closing_gives_up_on_a_backend_that_hangs_and_says_so() -> None:
    place = Place()
    place.gate.clear()
    delivery = Delivery("place", place, max_queue_bytes=10**6)
    delivery.put(batch(0, points=5))
    started = time.monotonic()
    assert not delivery.close(0.3)
    assert 0.2 < time.monotonic() - started < 3
    assert delivery.counts.dropped_points == 5
    assert delivery.last_error == "no answer within 0.3 s"
    place.gate.set()


def spooled(tmp_path: Path) -> list[bytes]:
    """The tags of what the spool holds."""
    return tags([item.metrics for item in read(tmp_path / "spool")])


def tags(received: list[Any]) -> list[bytes]:
    return [next(decode_series(parse_metrics(data))).tag.encode() for data in received]


def real_batch(number: int, points: int = 1) -> Batch:
    return metrics(str(number), range(points))


def numbers(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(first, count)]


def test_what_a_backend_that_hangs_has_not_taken_is_in_the_spool(tmp_path: Path) -> None:
    place = Place()
    place.gate.clear()
    spool = Spool(tmp_path / "spool", max_bytes=10**9)
    delivery = Delivery("place", place, max_queue_bytes=10**6, spool=spool)
    for number in range(5):
        delivery.put(real_batch(number, points=3))
    assert place.entered.wait(5)
    started = time.monotonic()
    assert not delivery.close(0.3)
    assert time.monotonic() - started < 3
    assert (delivery.counts.spooled_points, delivery.counts.dropped_points) == (15, 0)
    assert spooled(tmp_path) == numbers(5)
    place.gate.set()


def test_an_outage_goes_to_the_spool_and_is_drained_in_order_when_it_ends(tmp_path: Path) -> None:
    away = threading.Event()
    failed = threading.Event()

    def fail(attempt: int) -> Exception | None:
        if away.is_set():
            failed.set()
            return TransientError("down")
        return None

    place = Place(fail=fail)
    spool = Spool(tmp_path / "spool", max_bytes=10**9)
    delivery = Delivery("place", place, max_queue_bytes=10**6, spool=spool)
    for number in range(3):
        delivery.put(real_batch(number))
    assert delivery.flush(5)
    away.set()
    delivery.put(real_batch(3))
    assert failed.wait(5)
    while not list((tmp_path / "spool").glob("*.otlp")):  # at the latest with the second attempt
        delivery.put(real_batch(4))
    for number in range(5, 20):
        delivery.put(real_batch(number))
    away.clear()
    assert delivery.flush(10)
    delivery.put(real_batch(20))
    assert delivery.close(10)
    assert list(dict.fromkeys(tags(place.received))) == numbers(21)
    assert delivery.counts.delivered_points == delivery.counts.captured_points == len(place.received)
    assert not (tmp_path / "spool").exists()


def test_an_outage_that_lasts_is_in_the_spool_as_a_whole(tmp_path: Path) -> None:
    failed = threading.Event()

    def fail(attempt: int) -> Exception:
        failed.set()
        return TransientError("down")

    spool = Spool(tmp_path / "spool", max_bytes=10**9)
    delivery = Delivery("place", Place(fail=fail), max_queue_bytes=10**6, spool=spool)
    delivery.put(real_batch(0))
    assert failed.wait(5)
    for number in range(1, 10):
        delivery.put(real_batch(number))
    assert not delivery.close(0.3)
    assert spooled(tmp_path) == numbers(10)
    assert (delivery.counts.spooled_points, delivery.counts.dropped_points) == (10, 0)


def test_a_backend_that_cannot_be_used_spools_everything_and_delays_nothing(tmp_path: Path) -> None:
    class Refusing(Place):
        def connect(self) -> None:
            super().connect()
            raise PermanentError("bad credentials")

    place = Refusing()
    spool = Spool(tmp_path / "spool", max_bytes=10**9)
    delivery = Delivery("place", place, max_queue_bytes=10**6, spool=spool)
    for number in range(10):
        delivery.put(real_batch(number))
        delivery.flush(30)  # returns at once, or the test takes minutes
    assert not delivery.close(30)
    assert place.connects == 1
    assert spooled(tmp_path) == numbers(10)
    assert delivery.last_error == "bad credentials"


def test_a_full_queue_goes_to_the_spool(tmp_path: Path) -> None:
    place = Place()
    place.gate.clear()
    delivery = Delivery("place", place, max_queue_bytes=1, spool=Spool(tmp_path / "spool", max_bytes=10**9))
    for number in range(10):
        delivery.put(real_batch(number))
    place.gate.set()
    assert delivery.close(10)
    assert tags(place.received) == numbers(10)


def test_an_unwritable_spool_is_loud_and_memory_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    place = Place()
    place.gate.clear()
    spool = Spool(tmp_path / "file" / "spool", max_bytes=10**9)
    delivery = Delivery("place", place, max_queue_bytes=real_batch(0).size * 3, spool=spool)
    delivery.put(real_batch(0))
    assert place.entered.wait(5)
    for number in range(1, 10):
        delivery.put(real_batch(number))
    assert "cannot write the spool" in caplog.text
    place.gate.set()
    assert delivery.close(10)
    assert tags(place.received) == numbers(3)
    assert delivery.counts.dropped_points == 7
    assert "cannot be written" in delivery.last_error


def test_a_deadline_ends_a_delivery_that_works_too(tmp_path: Path) -> None:
    place = Place(fail=lambda attempt: time.sleep(0.1))
    spool = Spool(tmp_path / "spool", max_bytes=10**9)
    delivery = Delivery("place", place, max_queue_bytes=10**6, spool=spool)
    for number in range(100):
        delivery.put(real_batch(number))
    assert not delivery.close(5, time.monotonic() + 0.5)
    counts = delivery.counts
    assert 0 < counts.delivered_points < 90
    assert counts.delivered_points + counts.spooled_points == 100
    assert spooled(tmp_path) == numbers(100, first=counts.delivered_points)


def test_closing_waits_for_a_backend_that_is_slow_but_works() -> None:
    place = Place(fail=lambda attempt: time.sleep(0.1))
    delivery = Delivery("place", place, max_queue_bytes=10**6)
    for number in range(10):
        delivery.put(batch(number))
    assert delivery.close(0.5)  # a second of work, with progress every tenth of it
    assert len(place.received) == 10


def test_several_threads_flush_and_put_at_once() -> None:
    place = Place()
    delivery = Delivery("place", place, max_queue_bytes=10**9)

    def work() -> None:
        for number in range(200):
            delivery.put(batch(number))
            if number % 50 == 0:
                assert delivery.flush(10)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert delivery.close(10)
    assert delivery.counts.delivered_points == 800
