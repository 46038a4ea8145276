"""Captures what a script has ``tyro`` parse: the arguments of the dataclass or function, not the options."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, cast

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation import callers, parameters
from tracelet_otel.instrumentation.hooks import Hooks, HooksInstrumentor, Target, Wrap
from tracelet_otel.instrumentation.tyro import private


def _make(function: Any, wrap: Wrap) -> Any:
    def callable_with_args(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if wrap.on:
            with Guard("capturing a command line"):
                if kwargs.get("field_name_prefix") == "":  # not a nested one
                    _capture(result[0])
        return result

    return callable_with_args


def _capture(call: Any) -> None:
    own = parameters.is_own_command_line(callers.argument("tyro", "args"))
    if not own or not isinstance(call, partial) or not callers.is_users():
        return
    values: dict[str, Any] = inspect.signature(call.func).bind(*call.args, **call.keywords).arguments
    root = values.get(private.ROOT_FIELD)
    parameters.parsed("tyro", values if root is None else cast("dict[str, Any]", vars(root)))


class TyroInstrumentor(HooksInstrumentor):
    """Captures what a script has ``tyro`` parse."""

    dependencies = ("tyro >= 0.9",)
    hooks = Hooks(
        [Target(private.CALLABLE.module, private.CALLABLE.owner, private.CALLABLE.attribute, _make)]
    )
