"""Captures the command line that a script parses with ``argparse``, as parameters of its run.

What is parsed is the script's own command line (``parse_args()``, or the same words given), not a text that a
library has a parser for. Nothing is recorded here, and no run opened: :func:`captured` has what was parsed
so far, and :func:`on_parsed` is told of each parse. Values that have the name or the form of a secret are
masked, see :mod:`tracelet_otel.secrets.redaction`.

Limits: jsonargparse (LightningCLI) parses by its own means and is not seen; of ``parse_intermixed_args`` only
the options are.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import FunctionType
from typing import Any, cast

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.hooks import Hooks, HooksInstrumentor, Switch, Target
from tracelet_otel.secrets.redaction import redacted

Callback = Callable[[Mapping[str, Any]], None]

_guard = Guard("capturing a command line")
_parsing: ContextVar[bool] = ContextVar("tracelet_parsing", default=False)
"""Whether a parse is under way: subcommands have parsers of their own."""
_lock = threading.Lock()
_captured: dict[str, Any] = {}
_callback: Callback | None = None


def captured() -> dict[str, Any]:
    """The parameters of all parses so far, the last one's values where several have a name; JSON values."""
    with _lock:
        return dict(_captured)


def on_parsed(callback: Callback | None) -> None:
    """Has ``callback`` called with the parameters of each parse from now on; None: no more.

    It is called on the thread that parses, after the parse and before the script has its result.
    """
    global _callback
    with _lock:
        _callback = callback


def _parse_known_args(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    def parse_known_args(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not switch.on or _parsing.get():
            return original(self, *args, **kwargs)
        token = _parsing.set(True)
        try:
            result = original(self, *args, **kwargs)
        finally:
            _parsing.reset(token)
        with _guard:
            if _is_own(args[0] if args else kwargs.get("args")):
                _capture(result)
        return result

    return parse_known_args


def _is_own(words: object) -> bool:
    if words is None:
        return True
    return isinstance(words, (list, tuple)) and list(cast("list[object]", words)) == sys.argv[1:]


def _capture(result: Any) -> None:
    namespace = result[0]
    params: dict[str, Any] = redacted(_plain(vars(namespace)))
    with _lock:
        _captured.update(params)
        callback = _callback
    if callback is not None and params:
        callback(params)


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON has no form for is text."""
    if value is None or isinstance(value, (bool, str)) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else str(value)
    if isinstance(value, argparse.Namespace):
        return _plain(vars(value))
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, cast("set[Any]", value)))
    if isinstance(value, (FunctionType, type)):  # set_defaults(func=...): no address in memory
        return f"{value.__module__}.{value.__qualname__}"
    if callable(getattr(value, "read", None)) and hasattr(value, "name"):  # FileType
        return str(value.name)
    return str(value)


class ArgparseInstrumentor(HooksInstrumentor):
    """Captures the command line that a script parses with ``argparse``."""

    hooks = Hooks([Target("argparse", "ArgumentParser", "parse_known_args", _parse_known_args)])
