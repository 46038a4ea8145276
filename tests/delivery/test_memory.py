"""What waits for a backend takes no more memory than ``max_queue_bytes``; the rest is on disk, or dropped."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.delivery.spool.test_spool import metrics
from tests.delivery.test_delivery import Place, batch, tags
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.spool.spool import Durability, Spool

BATCHES = 60
MAX_BYTES = metrics("0", range(500)).size * 5

MAKE_SPOOL: dict[str, Callable[[Path], Spool]] = {
    "queue": lambda folder: Spool(folder, max_bytes=10**9),
    "durable": lambda folder: Spool(folder, max_bytes=10**9, durability=Durability.DISK),
}


@pytest.fixture
def place() -> Iterator[Place]:
    """A backend that takes nothing before the test opens its gate."""
    place = Place()
    place.gate.clear()
    yield place
    place.gate.set()


@pytest.mark.parametrize("kind", MAKE_SPOOL)
def test_memory_is_bounded_where_there_is_a_spool(kind: str, place: Place, tmp_path: Path) -> None:
    delivery = Delivery(
        "place", place, max_queue_bytes=MAX_BYTES, spool=MAKE_SPOOL[kind](tmp_path / "spool"), rests=False
    )
    delivery.put(metrics("0", range(500)))
    assert place.entered.wait(30)
    tracemalloc.start()
    for number in range(1, BATCHES):
        delivery.put(metrics(str(number), range(500)))
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * MAX_BYTES  # all of it would be twelve times as much
    place.gate.set()
    assert delivery.close(60)
    assert tags(place.received) == [b"%d" % number for number in range(BATCHES)]
    assert delivery.counts.dropped_points == 0


def test_the_bound_is_the_last_byte_that_fits(place: Place) -> None:
    delivery = Delivery("place", place, max_queue_bytes=300)
    for number in range(5):
        delivery.put(batch(number))  # 100 bytes
    place.gate.set()
    assert delivery.close(30)
    assert place.received == [b"0", b"1", b"2"]
    assert delivery.counts.dropped_points == 2


def test_what_is_delivered_makes_room(place: Place) -> None:
    place.gate.set()
    delivery = Delivery("place", place, max_queue_bytes=250)
    for number in range(10):
        delivery.put(batch(number))
        assert delivery.flush(30)
    assert delivery.counts.dropped_points == 0
    place.gate.clear()
    for number in range(5):  # no more room than before
        delivery.put(batch(number))
    place.gate.set()
    assert delivery.close(30)
    assert delivery.counts.dropped_points == 3


def test_what_was_moved_to_the_spool_makes_room(place: Place, tmp_path: Path) -> None:
    size = metrics("0", range(1)).size
    spool = Spool(tmp_path / "spool", max_bytes=10**9)
    delivery = Delivery("place", place, max_queue_bytes=3 * size, spool=spool)
    for number in range(10):
        delivery.put(metrics(str(number % 10), range(1)))
    assert spool
    place.gate.set()
    assert delivery.flush(30)
    place.gate.clear()
    place.entered.clear()
    delivery.put(metrics("a", range(1)))
    assert place.entered.wait(30)
    for name in "bc":
        delivery.put(metrics(name, range(1)))
    assert not spool  # there is room in memory for three again
    place.gate.set()
    assert delivery.close(30)
    assert tags(place.received)[10:] == [b"a", b"b", b"c"]
