"""Hooks into Hydra where a job begins, in whatever process its launcher runs it.

The configuration is what the task function gets, with each interpolation resolved that can be: so custom
resolvers are called once more. The first job of a process is its run's own; each job of a multirun has a run
of its own. What ``hydra.compose()`` returns is not recorded: nobody knows what for it is composed.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from itertools import count
from typing import Any, cast

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation import parameters
from tracelet_otel.instrumentation.hooks import Call, Hooks, HooksInstrumentor, Target, around
from tracelet_otel.instrumentation.hydra import private

_guard = Guard("the hook of Hydra's jobs")
_open: list[ExitStack] = []
"""Of the jobs under way, the innermost last. Hydra runs no two jobs in threads of one process."""
_numbers = count()


def _start(call: Call, _callbacks: Any, config: Any = None, **_: Any) -> Any:
    _open.append(ExitStack())
    with _guard:
        select = _omegaconf().OmegaConf.select
        is_multirun = getattr(select(config, "hydra.mode"), "name", "") == "MULTIRUN"
        number = select(config, "hydra.job.num") if is_multirun else next(_numbers)
        _open[-1] = parameters.begin_job("hydra", resolved(config), str(number), is_multirun)
    return call()


def _end(call: Call, _callbacks: Any, *args: Any, job_return: Any = None, **_: Any) -> Any:
    try:
        return call()
    finally:
        with _guard:
            has_failed = getattr(getattr(job_return, "status", None), "name", "") == "FAILED"
            error = private.RETURN_VALUE.get(job_return) if has_failed else None
            if _open:  # else we were imported during the job
                parameters.end_job(_open.pop(), error)


def resolved(config: Any) -> dict[str, Any]:
    """A job's configuration without Hydra's own part; what cannot be resolved stays as it is written."""
    own = _omegaconf().OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return _resolved(own, _omegaconf().OmegaConf.to_container(own, resolve=False))


def _resolved(node: Any, written: Any) -> Any:
    if isinstance(written, dict):
        members = cast("dict[Any, Any]", written)
        return {str(key): _member(node, key, value) for key, value in members.items()}
    if isinstance(written, list):
        items = cast("list[Any]", written)
        return [_member(node, index, value) for index, value in enumerate(items)]
    return node


def _member(node: Any, key: Any, written: Any) -> Any:
    try:
        value = node[key]
        if not _omegaconf().OmegaConf.is_config(value):
            return value
        # Not `written`, which may be an interpolation of the whole node.
        return _resolved(value, _omegaconf().OmegaConf.to_container(value, resolve=False))
    except Exception:  # a custom resolver may raise anything
        return written


def _omegaconf() -> Any:
    return sys.modules["omegaconf"]  # Hydra has imported it


class HydraInstrumentor(HooksInstrumentor):
    """Records the composed configuration of each job."""

    dependencies = ("hydra-core >= 1.2",)
    hooks = Hooks(
        [
            Target(name.module, name.owner, name.attribute, around(hook))
            for name, hook in ((private.JOB_START, _start), (private.JOB_END, _end))
        ]
    )
