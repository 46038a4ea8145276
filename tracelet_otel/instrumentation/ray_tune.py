"""Records the configuration of a Ray Tune trial as parameters, in the worker that runs the trial."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count
from typing import Any

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation import parameters
from tracelet_otel.instrumentation.hooks import Call, Hooks, HooksInstrumentor, Target, around

_trial = ExitStack()
_numbers = count()


def _begin(call: Call, _trainable: Any, *args: Any, **kwargs: Any) -> Any:
    """Around ``Trainable.__init__(config)``, and ``reset(new_config)`` of one that does several trials."""
    global _trial
    with Guard("the hook of Ray's trials"):
        config = args[0] if args else kwargs.get("config", kwargs.get("new_config"))
        own = {name: value for name, value in dict(config or {}).items() if not name.startswith("__")}
        parameters.end_job(_trial)
        _trial = parameters.begin_job("ray_tune", own, str(next(_numbers)), False)
    return call()


class RayTuneInstrumentor(HooksInstrumentor):
    """Records the configuration of trials."""

    dependencies = ("ray >= 2.7",)
    hooks = Hooks(
        [
            Target("ray.tune.trainable.trainable", "Trainable", name, around(_begin))
            for name in ("__init__", "reset")
        ]
    )
