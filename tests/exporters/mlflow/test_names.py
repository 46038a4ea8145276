"""Name mapping: valid for MLflow's own validators, reversible, and never two names in one."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils import validation

from tests.support.mlflow_subject import original_name, tag_and_rank
from tracelet_otel_exporters.mlflow import names
from tracelet_otel_exporters.shared import safe_names

# What is likely to meet an edge: path parts, half escapes, bad characters, the suffixes we add.
PIECES = st.sampled_from(
    [
        *["/", "//", ".", "..", "_", "__", "_x", "x", "0041", "_x0041_", "_x005F_", "_x_", "_x002F", "#"],
        *["é", "漢", "😀", "\ud83d", "\ude00", "\n", "\0", " ", ":", "a", "Loss", "train", "%", "?", "\\"],
        *["/rank_1", "/rank_0", "/rank_01", "rank_x005F_1", "_sha256_", "0" * 32, "a" * 100, "\u0301"],
    ]
)
NAMES = st.one_of(st.text(), st.lists(PIECES, max_size=8).map("".join))


def accepted_by_mlflow(key: str) -> bool:
    validation._validate_metric(key, 1.0, 0, 0)
    validation._validate_param(key, "1")
    validation._validate_tag(key, "1")
    return "\n" not in key  # the validator's "$" lets one pass at the end


@given(NAMES)
def test_encoded_name_is_valid_and_decodes_to_the_name(name: str) -> None:
    key = names.encode(name)
    assert accepted_by_mlflow(key)
    assert original_name(key) == (None if safe_names.is_cut(key) else name)
    assert safe_names.is_cut(key) or len(key) <= names.MAX_KEY


@given(st.lists(st.tuples(NAMES, st.sampled_from([None, 1, 2, 11])), min_size=2, unique=True))
def test_different_series_never_share_a_key(series: list[tuple[str, int | None]]) -> None:
    keys = [names.metric_key(tag, rank) for tag, rank in series]
    assert len(set(keys)) == len(keys)
    for (tag, rank), key in zip(series, keys, strict=True):
        assert accepted_by_mlflow(key)
        decoded, decoded_rank = tag_and_rank(key)
        assert decoded in (tag, None)
        assert decoded_rank == rank


@given(st.lists(NAMES, min_size=2, unique=True))
def test_different_names_never_share_a_path_or_an_image_key(originals: list[str]) -> None:
    for make in (names.encode, safe_names.path, names.image_key):
        made = [make(name) for name in originals]
        assert len(set(made)) == len(made), make


@given(NAMES)
def test_a_path_stays_inside_the_run(name: str) -> None:
    path = safe_names.path(name)
    assert posixpath.normpath(path) == path
    assert not path.startswith(("/", "../"))
    assert not set(path) & set('\\:?#%\n\0*"<>|')
    assert all(0 < len(part.encode()) <= safe_names.MAX_SEGMENT for part in path.split("/"))


@pytest.mark.parametrize(
    "name", ["loss", "train/loss", "Loss/val.1", "a b:c-d_e", "é/漢", "_x", "_x00_", "x0041_", "a/...", ".a"]
)
def test_a_valid_name_stays_as_it_is(name: str) -> None:
    assert names.encode(name) == name


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("", "_x_"),
        ("acc@5", "acc_x0040_5"),
        ("a//b/", "a/_x002F_b_x002F_"),
        ("../a", "_x002E_./a"),
        ("a/./b", "a/_x002E_/b"),
        ("...", "_x002E_.."),
        ("_x0041_", "_x005F_x0041_"),
        ("_x0041#", "_x005F_x0041_x0023_"),
        ("😀", "_x1F600_"),
        ("a\n", "a_x000A_"),
    ],
)
def test_escapes(name: str, key: str) -> None:
    assert names.encode(name) == key
    assert original_name(key) == name


def test_a_long_name_is_cut_and_stays_unique() -> None:
    one, two = names.encode("x" * 300 + "1"), names.encode("x" * 300 + "2")
    assert one != two
    assert len(one) == len(two) == names.MAX_KEY
    assert names.encode(one) != one  # a tag that is literally the cut key of another
    assert names.metric_key("x" * 300, 3).endswith("/rank_3")


def test_a_tag_that_ends_like_a_rank_is_not_that_rank() -> None:
    assert names.metric_key("loss", 1) == "loss/rank_1"
    assert names.metric_key("loss/rank_1") == "loss/rank_x005F_1"
    assert names.metric_key("loss/rank_0") == "loss/rank_0"
    assert names.metric_key("loss", 0) == names.metric_key("loss")
