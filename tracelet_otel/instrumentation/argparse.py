"""Captures the command line that a script parses with ``argparse``, as parameters of its run.

What is parsed is the script's own command line (``parse_args()``, or the same words given), not a text that a
library has a parser for, nor the command line of a launcher, see
:mod:`tracelet_otel.instrumentation.callers`.

Limit: of ``parse_intermixed_args`` only the options are seen.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation import callers, parameters
from tracelet_otel.instrumentation.hooks import Call, Hooks, HooksInstrumentor, Target, around

_parsing: ContextVar[bool] = ContextVar("tracelet_parsing", default=False)
"""Whether a parse is under way: subcommands have parsers of their own, and so have other libraries."""


def parse(
    source: str, call: Call, parser: Any, args: object, values_of: Callable[[Any], Mapping[str, Any]]
) -> Any:
    """Calls a parser's method, and says what it parsed.

    Args:
        source: the hook.
        call: the call to make.
        parser: the parser.
        args: the words that it was given, or None.
        values_of: called with the call's result; returns the parameters.
    """
    if _parsing.get():
        return call()
    token = _parsing.set(True)
    try:
        result = call()
    finally:
        _parsing.reset(token)
    with Guard("capturing a command line"):
        if parameters.is_own_command_line(args) and callers.is_users(parser):
            parameters.parsed(source, values_of(result))
    return result


def _parse_known_args(call: Call, parser: Any, args: object = None, *_: Any, **__: Any) -> Any:
    return parse("argparse", call, parser, args, _values)


def _values(result: tuple[Namespace, list[str]]) -> dict[str, Any]:
    return vars(result[0])


class ArgparseInstrumentor(HooksInstrumentor):
    """Captures the command line that a script parses with ``argparse``."""

    hooks = Hooks([Target("argparse", "ArgumentParser", "parse_known_args", around(_parse_known_args))])
