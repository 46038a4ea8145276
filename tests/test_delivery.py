from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.delivery.errors import PermanentError, TransientError


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
