"""Reads ``TensorProto`` messages, whichever library's class they are of.

Source: TensorFlow's ``tensorflow/core/framework/tensor.proto`` and ``types.proto``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

_FLOAT = 1
_STRING = 7
_BFLOAT16 = 14
_HALF = 19
_SINGLE = {_FLOAT, _BFLOAT16, _HALF}
"""Types whose values are all float32 values."""

_NUMBERS = {
    _FLOAT: ("<f4", "float_val"),
    2: ("<f8", "double_val"),
    3: ("<i4", "int_val"),
    4: ("<u1", "int_val"),
    5: ("<i2", "int_val"),
    6: ("<i1", "int_val"),
    9: ("<i8", "int64_val"),
    10: ("?", "bool_val"),
    _BFLOAT16: ("<u2", "half_val"),
    17: ("<u2", "int_val"),
    _HALF: ("<u2", "half_val"),
    22: ("<u4", "uint32_val"),
    23: ("<u8", "uint64_val"),
}
"""By data type: numpy's name of it, and the field with its values. The half types are there as bits."""


def shape(tensor: Any) -> list[int]:
    """The tensor's shape; empty for a single value."""
    return [dimension.size for dimension in tensor.tensor_shape.dim]


def number(tensor: Any) -> tuple[float, bool]:
    """The only value of a tensor, and whether it is a float32.

    Raises:
        ValueError: it has no value, several, or none that is a real number.
    """
    if tensor.dtype == _FLOAT and len(tensor.float_val) == 1:  # without numpy: this is a scalar's usual form
        return tensor.float_val[0], True
    return float(array(tensor).item()), tensor.dtype in _SINGLE


def array(tensor: Any) -> Any:
    """The tensor as a numpy array.

    Raises:
        ValueError: its values are not real numbers, or not as many as its shape says.
    """
    import numpy as np

    known = _NUMBERS.get(tensor.dtype)
    if known is None:
        raise ValueError(f"tensor of data type {tensor.dtype} is not numeric")
    dtype, field = known
    sizes = shape(tensor)
    if tensor.tensor_content:
        values: Any = np.frombuffer(tensor.tensor_content, dtype)
    else:
        values = np.array(getattr(tensor, field), dtype)
        missing = prod(sizes) - len(values)
        if missing > 0 and len(values):  # equal values at the end are written once
            values = np.concatenate([values, np.repeat(values[-1:], missing)])
    if tensor.dtype == _HALF:
        values = values.view("<f2")
    elif tensor.dtype == _BFLOAT16:
        values = (values.astype("<u4") << 16).view("<f4")
    return values.reshape(sizes if sizes or len(values) == 1 else [-1])


def strings(tensor: Any) -> Sequence[bytes]:
    """The values of a string tensor, in row-major order.

    Raises:
        ValueError: it is not a tensor.
    """
    if tensor.dtype != _STRING:
        raise ValueError(f"tensor of data type {tensor.dtype} holds no strings")
    return list(tensor.string_val)
