"""Captures the command line that a script parses with ``argparse``, as parameters of its run.

What is parsed is the script's own command line (``parse_args()``, or the same words given), not a text that a
library has a parser for. Nothing is recorded here, and no run opened: :func:`captured` has what was parsed
so far, and :func:`on_parsed` is told of each parse. Values that have the name or the form of a secret are
masked, see :mod:`tracelet_otel.secrets.redaction`.

Limits: jsonargparse (LightningCLI) parses by its own means and is not seen; of ``parse_intermixed_args`` only
the options are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.hooks import Call, Hooks, HooksInstrumentor, Target, around
from tracelet_otel.recording import contents
from tracelet_otel.secrets.redaction import redacted

Callback = Callable[[Mapping[str, Any]], None]

_parsing: ContextVar[bool] = ContextVar("tracelet_parsing", default=False)
"""Whether a parse is under way: subcommands have parsers of their own."""
_captured: dict[str, Any] = {}
_callback: Callback | None = None


def captured() -> dict[str, Any]:
    """The parameters of all parses so far, the last one's values where several have a name; JSON values."""
    return dict(_captured)


def on_parsed(callback: Callback | None) -> None:
    """Has ``callback`` called with the parameters of each parse from now on; None: no more.

    It is called on the thread that parses, after the parse and before the script has its result.
    """
    global _callback
    _callback = callback


def _parse_known_args(call: Call, parser: Any, args: object = None, *_: Any, **__: Any) -> Any:
    if _parsing.get():
        return call()
    token = _parsing.set(True)
    try:
        result = call()
    finally:
        _parsing.reset(token)
    with Guard("capturing a command line"):
        if args is None or (isinstance(args, (list, tuple)) and [*args] == sys.argv[1:]):
            params = redacted(contents.plain(vars(result[0])))
            _captured.update(params)
            if (callback := _callback) is not None and params:
                callback(params)
    return result


class ArgparseInstrumentor(HooksInstrumentor):
    """Captures the command line that a script parses with ``argparse``."""

    hooks = Hooks([Target("argparse", "ArgumentParser", "parse_known_args", around(_parse_known_args))])
