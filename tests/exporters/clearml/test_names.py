"""Tags to ClearML's titles and series and back."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.clearml_subject import tag_and_rank
from tracelet_otel_exporters.clearml import names as clearml_names
from tracelet_otel_exporters.clearml.names import MAX_BYTES, Name, encode

TAGS = st.text(st.characters(exclude_categories=[]), max_size=40) | st.text("ab/-_:rnk1", max_size=12)
RANKS = st.none() | st.integers(1, 30)


def identity(name: Name, step: int = 5) -> str:
    """As the server's ``_get_event_id`` has it."""
    fields = ["task", str(step), name.metric, name.variant, *([name.key] if name.key else [])]
    return hashlib.md5("-".join(fields).encode()).hexdigest()


@pytest.mark.parametrize(
    ("tag", "rank", "metric", "variant"),
    [
        ("loss/train", None, "loss", "train"),
        ("loss/train", 0, "loss", "train"),
        ("loss/train", 3, "loss", "train/rank_3"),
        ("loss", None, "loss", "loss"),
        ("loss", 1, "loss", "loss/rank_1"),
        ("a/b/c", None, "a/b", "c"),
        ("top-1/val-loss", None, "top-1", "val-loss"),
        ("loss/loss", None, "loss", "/loss"),
        ("a.b$c/d e", None, "a.b$c", "d e"),
    ],
)
def test_titles_are_those_of_clearmls_own_hook(tag: str, rank: int | None, metric: str, variant: str) -> None:
    assert encode(tag, rank) == Name(metric, variant, True)


@given(TAGS, RANKS)
@example("rank_1/rank_1", None)
@example("rank_1/", 1)
@example("x/rank_1", None)
@example(":monitor:machine/cpu_usage", None)
@example("", None)
@example("/", None)
def test_a_name_tells_its_tag(tag: str, rank: int | None) -> None:
    name = encode(tag, rank)
    assert name == encode(tag, rank)
    assert len(name.metric.encode()) <= MAX_BYTES
    assert len(name.variant.encode()) <= MAX_BYTES
    assert not name.metric.startswith(":monitor:")
    if name.is_exact:
        assert tag_and_rank(name.metric, name.variant) == (tag, rank)
    else:
        assert tag_and_rank(name.metric, name.variant) is None


@given(TAGS, RANKS, TAGS, RANKS)
@example("a-b/c", None, "a/b-c", None)
@example("x", None, "x/x", None)
@example("x", 1, "x/rank_1", None)
@example("rank_1/rank_1", None, "rank_1/", 1)
@example("a/b-c", None, "a/b-c-1", None)
def test_two_tags_are_two_series_for_the_server(
    one: str, one_rank: int | None, other: str, other_rank: int | None
) -> None:
    first, second = encode(one, one_rank), encode(other, other_rank)
    if (one, one_rank) == (other, other_rank):
        assert first == second
    else:
        assert (first.metric, first.variant) != (second.metric, second.variant)
        assert identity(first) != identity(second)


@pytest.mark.parametrize("tag", ["x" * 2000, "x/" + "y" * 2000, "é" * 600 + "/y", "bad \udc80/surrogate"])
def test_what_clearml_cannot_hold_is_cut(tag: str) -> None:
    name = encode(tag)
    assert not name.is_exact
    assert encode(name.metric + "/" + name.variant) != name  # the cut name as a tag is another one


@given(st.text(st.characters(exclude_categories=[])))
def test_a_segment_is_safe_in_a_path(name: str) -> None:
    segment = clearml_names.segment(name)
    assert segment.isascii()
    assert segment
    assert not set(segment) & set('/\\"\r\n %#?')
    assert ".." not in segment
