"""Values and steps at the edge: anything numeric becomes a Python float or int, or a clear error."""

from __future__ import annotations

from operator import index
from typing import Any, cast

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

_SINGLES = ("float32", "float16", "bfloat16", "half")


def to_value(value: Any) -> tuple[float, bool]:
    """``value`` as a float, and whether it had single precision (or less), so that it has a shortest decimal.

    Takes Python numbers, numpy scalars and any array or tensor of one element. A tensor on a device is
    waited for.

    Raises:
        TypeError: it is not a number.
        ValueError: it has more than one element, or is a complex number.
        OverflowError: an int beyond the range of float.
    """
    kind = cast("type[object]", type(value))
    if kind is float:
        return value, False
    if kind is int or kind is bool:
        return float(value), False
    if isinstance(value, (str, bytes)) or value is None:
        raise TypeError(f"a value must be a number, got {kind.__name__}")
    dtype = str(getattr(value, "dtype", ""))
    if "complex" in dtype or isinstance(value, complex):
        raise ValueError("a value must be real, got a complex number")
    try:
        number = float(value.item() if hasattr(value, "item") else value)
    except (RuntimeError, ValueError) as error:  # torch and numpy, for more than one element
        raise ValueError(f"a value must have one element: {error}") from None
    # float16 and bfloat16 are exact in float32, so the shortest float32 decimal is right for them too.
    return number, dtype.removeprefix("torch.") in _SINGLES


def to_step(step: Any) -> int:
    """``step`` as a Python int.

    Takes ints, numpy ints, tensors of one int, and floats with a whole value.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not whole, or has more than one element.
        OverflowError: it is outside int64.
    """
    kind = cast("type[object]", type(step))
    if kind is int and INT64_MIN <= step <= INT64_MAX:
        return step
    if hasattr(step, "item"):
        step = step.item()
    if isinstance(step, float):
        if not step.is_integer():
            raise ValueError(f"a step must be whole, got {step!r}")
        number = int(step)
    else:
        try:
            number = index(step)
        except TypeError:
            raise TypeError(f"a step must be an integer, got {type(step).__name__}") from None
    if not INT64_MIN <= number <= INT64_MAX:
        raise OverflowError(f"a step must be in the range of int64, got {number}")
    return number
