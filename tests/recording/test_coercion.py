"""What counts as a value and as a step, and what is refused with which reason."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tracelet_otel.recording.coercion import INT64_MAX, INT64_MIN, to_step, to_value


class Half:
    """A tensor of one element, as PyTorch shows itself."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def item(self) -> float:
        return 0.5


@pytest.mark.parametrize(
    ("value", "number", "is_single"),
    [
        (1.5, 1.5, False),
        (2, 2.0, False),
        (True, 1.0, False),
        (np.float64(0.1), 0.1, False),
        (np.float32(0.1), float(np.float32(0.1)), True),
        (np.float16(0.1), float(np.float16(0.1)), True),
        (np.int64(7), 7.0, False),
        (np.array([[0.25]], np.float32), 0.25, True),
        (Half("torch.bfloat16"), 0.5, True),
        (Half("torch.half"), 0.5, True),
        (Half("torch.float64"), 0.5, False),
        (-math.inf, -math.inf, False),
    ],
)
def test_a_value_is_a_float_and_knows_its_precision(value: Any, number: float, is_single: bool) -> None:
    found = to_value(value)
    assert (type(found[0]), found) == (float, (number, is_single))


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ("1", TypeError, "^a value must be a number, got str$"),
        (b"1", TypeError, "^a value must be a number, got bytes$"),
        (None, TypeError, "^a value must be a number, got NoneType$"),
        (1j, ValueError, "^a value must be real, got a complex number$"),
        (np.complex64(1), ValueError, "^a value must be real, got a complex number$"),
        (np.zeros(2), ValueError, "^a value must have one element: "),
        (10**400, OverflowError, "too large"),
    ],
)
def test_another_value_is_refused_with_a_reason(value: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        to_value(value)


@pytest.mark.parametrize(
    ("step", "number"),
    [(0, 0), (INT64_MIN, INT64_MIN), (INT64_MAX, INT64_MAX), (np.int64(5), 5), (3.0, 3), (np.float32(4), 4)],
)
def test_a_step_is_an_int(step: Any, number: int) -> None:
    found = to_step(step)
    assert (type(found), found) == (int, number)


@pytest.mark.parametrize(
    ("step", "error", "says"),
    [
        (INT64_MAX + 1, OverflowError, f"^a step must be in the range of int64, got {INT64_MAX + 1}$"),
        (INT64_MIN - 1, OverflowError, f"^a step must be in the range of int64, got {INT64_MIN - 1}$"),
        (2.0**63, OverflowError, "^a step must be in the range of int64"),
        (1.5, ValueError, "^a step must be whole, got 1.5$"),
        (math.nan, ValueError, "^a step must be whole, got nan$"),
        ("one", TypeError, "^a step must be an integer, got str$"),
        (None, TypeError, "^a step must be an integer, got NoneType$"),
        (np.zeros(2, int), ValueError, "size 1|only one element"),
    ],
)
def test_another_step_is_refused_with_a_reason(step: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        to_step(step)
