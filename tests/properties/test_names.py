"""Each tracker's place for a tag and rank: it tells both, and no two have the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.exporters.test_contract import NAMES
from tests.support import clearml_subject, mlflow_subject, wandb_subject
from tracelet_otel_exporters.aim import sequences as aim_sequences
from tracelet_otel_exporters.clearml import names as clearml_names
from tracelet_otel_exporters.mlflow import names
from tracelet_otel_exporters.wandb import names as wandb_names

RANKS = st.sampled_from([None, 0, 1, 2, 11])
SERIES = st.tuples(NAMES, RANKS)
Series = tuple[str, "int | None"]


class Naming(NamedTuple):
    """A tracker's way with names."""

    place: Callable[[str, int | None], Any]
    """What the tracker is given: equal only for equal series."""
    read: Callable[[Any], Series | None]
    """Tag and rank; None where the place does not tell them, as the run then does."""


def _read_mlflow(key: str) -> Series | None:
    tag, rank = mlflow_subject.tag_and_rank(key)
    return None if tag is None else (tag, rank)


def _place_aim(tag: str, rank: int | None) -> str:
    name, context = aim_sequences.name_and_context(tag, rank)
    assert name
    assert not name.startswith("__system__")
    assert name.encode()
    return json.dumps([name, context], sort_keys=True)


def _read_aim(place: str) -> Series:
    name, context = json.loads(place)
    return context.get("tag", name), context.get("rank")


NAMINGS = {
    "mlflow": Naming(names.metric_key, _read_mlflow),
    "wandb": Naming(wandb_names.metric_key, wandb_subject.tag_and_rank),
    "aim": Naming(_place_aim, _read_aim),
    "clearml": Naming(
        lambda tag, rank: clearml_names.encode(tag, rank)[:2],
        lambda name: clearml_subject.tag_and_rank(*name),
    ),
}


def canonical(tag: str, rank: int | None) -> Series:
    """Rank 0 and no rank are one series."""
    return tag, rank or None


@pytest.mark.parametrize("tracker", NAMINGS)
@given(series=st.lists(SERIES, min_size=2, max_size=8))
def test_no_two_series_have_one_place(tracker: str, series: list[Series]) -> None:
    naming = NAMINGS[tracker]
    places: dict[Any, Series] = {}
    for said, rank in series:
        tag = said.encode(errors="replace").decode()  # what OTLP can carry
        wanted = canonical(tag, rank)
        place = naming.place(tag, rank)
        assert places.setdefault(place, wanted) == wanted
        found = naming.read(place)
        assert found is None or canonical(*found) == wanted


@pytest.mark.parametrize("tracker", NAMINGS)
@given(one=SERIES)
def test_a_place_as_a_tag_is_another_place(tracker: str, one: Series) -> None:
    """What an escaped name looks like may be a tag as well."""
    naming = NAMINGS[tracker]
    tag = one[0].encode(errors="replace").decode()
    place = naming.place(tag, one[1])
    text = place if isinstance(place, str) else "/".join(place)
    if tracker == "aim":
        text = json.loads(place)[0]
    if (text, None) != canonical(tag, one[1]):
        assert naming.place(text, None) != place
