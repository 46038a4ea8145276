"""How a writer's tag becomes the run's: nothing two writers log is one series."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelet_otel.recording.writer_names import series_tag


@pytest.mark.parametrize(
    ("first", "folder", "tag", "expected"),
    [
        ("/runs/cv", "/runs/cv", "val/acc", "val/acc"),
        ("/runs/cv", "/runs/cv", "a: b/c:d", "a: b/c:d"),
        ("/runs/cv", "/runs/cv/fold0", "val/acc", "fold0:/val/acc"),
        ("/runs/cv", "/runs/cv/a/b", "loss", "a/b:/loss"),
        ("/runs/cv", "/runs/cv/12:30:00", "loss", "12:30:00:/loss"),
        ("/runs/cv", "/runs/cv/12:30:", "loss", "12:30%3A:/loss"),
        ("/runs/fold0", "/runs/fold1", "loss", "fold1::/loss"),
        ("/runs/fold0/version_0", "/runs/fold1/version_0", "loss", "fold1/version_0:::/loss"),
        ("/runs/cv", "/runs", "loss", "::/loss"),
        ("/runs/cv", "/runs/cv/Loss_train", "Loss", "Loss/:train"),
        ("/runs/cv", "/runs/cv/Loss/train", "Loss", "Loss/::train"),
        ("/runs/cv", "/runs/cv/a_b_key", "a/b", "a/b/:key"),
        ("/runs/cv", "/runs/cv/fold0/Loss_train", "Loss", "fold0:/Loss/:train"),
        ("/runs/a", "/runs/b/Loss_train", "Loss", "b::/Loss/:train"),
        ("/runs/loss/fold0", "/runs/loss/fold0", "loss", "loss"),
        ("/runs/loss/fold0", "/runs/loss/fold1", "loss", "fold1::/loss"),
        ("/runs/a", "/runs/loss/b", "loss", "loss/b::/loss"),
        ("/runs/cv", "/runs/cv", "http://x", ":/http://x"),
        ("/runs/cv", "/runs/cv", "Loss/:train", "Loss/:::train"),
        ("s3://bucket/cv", "s3://bucket/cv/fold0", "loss", "fold0:/loss"),
        ("s3://bucket/cv", "/runs/cv", "loss", "/runs/cv:/loss"),
        ("/runs/cv", "s3://bucket/cv", "loss", "s3%3A//bucket/cv:/loss"),
    ],
)
def test_examples(first: str, folder: str, tag: str, expected: str) -> None:
    assert series_tag(first, folder, tag) == expected


_FOLDERS = st.lists(st.text("ab:_%3A", min_size=1, max_size=5), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
_TAGS = st.text("ab:/_", max_size=6)


@given(first=_FOLDERS, one=st.tuples(_FOLDERS, _TAGS), other=st.tuples(_FOLDERS, _TAGS))
def test_no_two_series_become_one(first: str, one: tuple[str, str], other: tuple[str, str]) -> None:
    if one != other:
        assert series_tag(first, *one) != series_tag(first, *other)


@given(first=_FOLDERS, folder=_FOLDERS, tag=_TAGS)
def test_no_writer_has_a_plain_tag_of_the_first_folder(first: str, folder: str, tag: str) -> None:
    name = series_tag(first, folder, tag)
    if folder != first:
        assert series_tag(first, first, name) != name


@given(folder=_FOLDERS, tag=st.text("ab/_ .-%", max_size=8))
def test_the_first_folders_tags_stay(folder: str, tag: str) -> None:
    if "_" not in folder and not folder.endswith(tag):
        assert series_tag(folder, folder, tag) == tag
