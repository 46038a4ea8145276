"""Captures the command line that a script parses with ``jsonargparse``, configuration files included.

LightningCLI parses with it too, for itself: of it, Lightning's hyperparameters are recorded.
"""

from __future__ import annotations

from typing import Any

from tracelet_otel.instrumentation.argparse import parse
from tracelet_otel.instrumentation.hooks import Call, Hooks, HooksInstrumentor, Target, around


def _parse_args(call: Call, parser: Any, args: object = None, *_: Any, **__: Any) -> Any:
    return parse("jsonargparse", call, parser, args, vars)


class JsonargparseInstrumentor(HooksInstrumentor):
    """Captures the command line that a script parses with ``jsonargparse``."""

    dependencies = ("jsonargparse >= 4.0",)
    hooks = Hooks([Target("jsonargparse", "ArgumentParser", "parse_args", around(_parse_args))])
