"""Hyperparameters of a Lightning module and its data module, as the JSON of a ``params`` record."""

from __future__ import annotations

import dataclasses
import json
import math
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any, cast

from tracelet_otel.instrumentation.lightning import private

_MISSING = object()
_MAX_DEPTH = 16
_MAX_TEXT = 10_000
"""Characters kept of a value that has no JSON form, such as a module's ``repr``."""
_MAX_ELEMENTS = 100
"""Elements up to which a tensor or array is written out."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def merged(trainer: Any) -> dict[str, Any]:
    """What Lightning gives to its loggers: the module's hyperparameters and the data module's.

    Lightning refuses to start if both have a name with different values, unless it has no logger; then
    the data module's is kept as ``datamodule.<name>``.
    """
    model, data = _initial(trainer.lightning_module), _initial(trainer.datamodule)
    params = {name: value for name, value in model.items() if name != "_class_path"}
    for name, value in data.items():
        if name == "_class_path":  # LightningCLI's own
            continue
        differs = name in params and to_json(params[name]) != to_json(value)
        params[f"datamodule.{name}" if differs else name] = value
    return params


def _initial(holder: Any) -> Mapping[str, Any]:
    if holder is None or not private.LOG_HYPERPARAMS.get(holder, True):
        return {}
    # The public `hparams_initial` is a deep copy, which for a model among the values costs its memory.
    initial = getattr(holder, private.HPARAMS_INITIAL.attribute, _MISSING)
    if initial is _MISSING:
        initial = getattr(holder, "hparams_initial", None)
    return cast("Mapping[str, Any]", initial or {})


def to_payload(params: object) -> bytes:
    """The payload of a ``params`` record."""
    return json.dumps(to_json(params), ensure_ascii=False).encode("utf-8", "backslashreplace")


def to_json(value: object, depth: int = 0) -> Json:
    """The value as JSON; what has no JSON form as text. Never raises."""
    try:
        return _convert(value, depth)
    except Exception:  # a value's own code may raise anything
        return f"<{type(value).__name__}>"


def _convert(value: Any, depth: int) -> Json:
    if isinstance(value, Enum):
        return str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth >= _MAX_DEPTH:
        return str(value)[:_MAX_TEXT]
    if isinstance(value, Namespace):
        value = vars(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):  # OmegaConf's too
        return _convert_mapping(cast("Mapping[Any, Any]", value), depth)
    if isinstance(value, (list, tuple)) or type(value).__name__ == "ListConfig":
        return [to_json(item, depth + 1) for item in cast("Iterable[Any]", value)]
    if isinstance(value, (set, frozenset)):
        return sorted((to_json(item, depth + 1) for item in cast("Iterable[Any]", value)), key=str)
    if isinstance(value, PurePath):
        return str(value)
    if callable(getattr(value, "tolist", None)):
        return _convert_array(value, depth)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _qualified_name(value)
    return str(value)[:_MAX_TEXT]


def _convert_mapping(mapping: Mapping[Any, Any], depth: int) -> Json:
    converted: dict[str, Json] = {}
    for key in mapping:
        try:
            item = mapping[key]
        except Exception as error:  # OmegaConf: an interpolation that leads nowhere, a missing value
            item = f"<{type(error).__name__}>"
        converted[str(key)] = to_json(item, depth + 1)
    return converted


def _convert_array(array: Any, depth: int) -> Json:
    shape = tuple(getattr(array, "shape", ()))
    if math.prod(shape) <= _MAX_ELEMENTS:
        return to_json(array.tolist(), depth + 1)
    return f"{type(array).__name__}(shape={shape}, dtype={array.dtype})"


def _qualified_name(value: type | Callable[..., Any]) -> str:
    return f"{value.__module__}.{value.__qualname__}"
