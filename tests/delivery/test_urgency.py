"""How long a delivery pauses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tracelet_otel.delivery import urgency
from tracelet_otel.delivery.urgency import Urgency


class Waits:
    """Stands in for waiting: keeps how long it would take at most, 0 where it would end at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, paused: Urgency) -> None:
        self.seconds: list[float] = []
        self.during: Callable[[], Any] = lambda: None
        monkeypatch.setattr(paused.condition, "wait_for", self.wait_for)

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        if not predicate():
            self.during()
        self.seconds.append(0.0 if predicate() else timeout)
        return predicate()


@pytest.fixture
def paused() -> Urgency:
    return Urgency()


@pytest.fixture
def waits(paused: Urgency, monkeypatch: pytest.MonkeyPatch) -> Waits:
    return Waits(monkeypatch, paused)


def test_a_rest_leaves_training_most_of_the_time(paused: Urgency, waits: Waits) -> None:
    paused.rest(0.01, lambda: False)
    paused.rest(5.0, lambda: False)
    assert waits.seconds == [pytest.approx(0.99), urgency.LONGEST_REST_S]


@pytest.mark.parametrize("reason", ["waiter", "hurry", "closing", "behind"])
def test_no_rest_where_there_is_hurry(paused: Urgency, waits: Waits, reason: str) -> None:
    if reason == "waiter":
        paused.set_waited_for(True)
    elif reason == "hurry":
        paused.hurry()
    paused.closing = reason == "closing"
    paused.rest(0.01, lambda: reason == "behind")
    assert waits.seconds == [0.0]


def test_waiters_are_counted(paused: Urgency, waits: Waits) -> None:
    for wanted in (True, True, False):
        paused.set_waited_for(wanted)
    paused.rest(0.01, lambda: False)
    paused.set_waited_for(False)
    paused.rest(0.01, lambda: False)
    assert waits.seconds == [0.0, pytest.approx(0.99)]


def test_a_back_off_is_short_while_a_caller_waits(paused: Urgency, waits: Waits) -> None:
    assert paused.back_off(20.0)
    paused.set_waited_for(True)
    assert paused.back_off(20.0)
    assert waits.seconds == [20.0, urgency.LONGEST_BACKOFF_AT_EXIT_S]
    paused.abandoned = True
    assert not paused.back_off(20.0)
    assert len(waits.seconds) == 2


@pytest.mark.parametrize("change", ["waiter", "hurry", "abandoned"])
def test_a_back_off_ends_with_a_change(paused: Urgency, waits: Waits, change: str) -> None:
    def during() -> None:
        if change == "waiter":
            paused.set_waited_for(True)
        elif change == "hurry":
            paused.hurry()
        else:
            paused.abandoned = True

    waits.during = during
    assert paused.back_off(20.0) is (change != "abandoned")
    assert waits.seconds == [0.0]


def test_a_person_has_time_to_mend_a_set_up(paused: Urgency, waits: Waits) -> None:
    paused.stand_by()
    paused.closing = True
    paused.stand_by()
    assert waits.seconds == [urgency.LONGEST_BACKOFF_S, urgency.LONGEST_BACKOFF_AT_EXIT_S]
