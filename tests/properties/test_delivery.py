"""Whatever a backend answers, each batch is there once, in order, or counted as refused."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.delivery.test_delivery import Place, real_batch, tags
from tracelet_otel.delivery import link
from tracelet_otel.delivery.delivery import Delivery
from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.foundation.errors import PermanentError, TransientError

ERRORS = {
    "taken": None,
    "away": TransientError("away"),
    "refused": PermanentError("refused"),
    "defect": RuntimeError("a defect"),
}


class Answering(Place):
    """Answers as it is told to; notes which batches it refused."""

    def __init__(self, answers: Sequence[str], afterwards: str) -> None:
        super().__init__()
        self.refused: list[int] = []
        self._answers = [*answers]
        self._afterwards = afterwards

    def send(self, batch: Batch) -> Receipt:
        answer = self._answers.pop(0) if self._answers else self._afterwards
        if (error := ERRORS[answer]) is None:
            return super().send(batch)
        if answer != "away":
            self.refused += numbers([batch.metrics])
        raise error


def numbers(received: Iterable[Any]) -> list[int]:
    return [int(tag) for tag in tags(list(received))]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "FIRST_BACKOFF_S", 0.0002)
    monkeypatch.setattr(link, "LONGEST_BACKOFF_S", 0.0002)


@settings(max_examples=60)
@given(
    answers=st.lists(st.sampled_from(list(ERRORS)), max_size=40),
    sizes=st.lists(st.integers(1, 5), max_size=20),
    queue=st.sampled_from([0, 500, 10**6]),
    stays_away=st.booleans(),
)
def test_any_pattern_of_answers(
    tmp_path: Path, answers: list[str], sizes: list[int], queue: int, stays_away: bool
) -> None:
    folder = tmp_path / uuid.uuid4().hex
    place = Answering(answers, "away" if stays_away else "taken")
    delivery = Delivery("place", place, max_queue_bytes=queue, spool=Spool(folder, max_bytes=10**9))
    for number, points in enumerate(sizes):
        delivery.put(real_batch(number, points))
    done = delivery.close(0.05 if stays_away else 20)
    there, refused = numbers(place.received), place.refused
    left = [number for number in range(len(sizes)) if number not in {*there, *refused}]
    assert there == sorted({*there})  # in order, none twice
    assert refused == sorted({*refused})
    assert not set(there) & set(refused)
    # A file of the spool goes as a whole: before what is left there may be what was delivered.
    spooled = numbers(batch.metrics for batch in read(folder))
    assert spooled == sorted({*spooled})
    assert spooled[len(spooled) - len(left) :] == left
    assert done == (not left)
    assert not left or stays_away
    counts = delivery.counts
    assert counts.captured_points == sum(sizes)
    assert counts.delivered_points == sum(sizes[number] for number in there)
    assert counts.spooled_points == sum(sizes[number] for number in left)
    assert counts.dropped_points == sum(sizes[number] for number in refused)
