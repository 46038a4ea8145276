"""What becomes of a parameter in JSON, whoever logs it."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracelet_otel.recording.contents import params, plain


class Mode(enum.Enum):
    FAST = "fast"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Options:
    rate: float = 0.5


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Missing(dict[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise LookupError(key)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (10**30, 10**30),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (Mode.FAST, "Mode.FAST"),
        (Level.HIGH, 3),
        (Options(), {"rate": 0.5}),
        (Options, f"{__name__}.Options"),
        (argparse.Namespace(inner=argparse.Namespace(path=Path("x"))), {"inner": {"path": "x"}}),
        ((1, None, {True}), [1, None, [True]]),
        ({"b", "a"}, ["a", "b"]),
        (range(10**12), "range(0, 1000000000000)"),
        (b"x", "b'x'"),
        (len, "builtins.len"),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        (np.zeros((20, 20)), "ndarray(shape=(20, 20), dtype=float64)"),
        ([Broken(), 1], ["<Broken>", 1]),
        ({1: Missing(a=1)}, {"1": {"a": "<LookupError>"}}),
    ],
)
def test_any_value_has_a_form_in_json(value: object, expected: object) -> None:
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def test_a_value_that_contains_itself_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert json.dumps(plain(loop)) == "[" * 32 + '"[[...]]"' + "]" * 32


def test_parameters_have_names() -> None:
    assert params(Options(0.1)).payload == b'{"rate": 0.1}'
    with pytest.raises(TypeError, match="must be a mapping of names to values, got int"):
        params(3)
