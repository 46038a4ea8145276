"""Records the arguments of transformers' ``Trainer`` as parameters, as its training begins.

What it reports to TensorBoard has them as a text only.
"""

from __future__ import annotations

from typing import Any

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation import parameters
from tracelet_otel.instrumentation.hooks import Call, Hooks, HooksInstrumentor, Target, around


def _train(call: Call, trainer: Any, *_: Any, **__: Any) -> Any:
    with Guard("the hook of Trainer.train"):
        parameters.found("transformers_trainer", trainer.args.to_dict())
    return call()


class TransformersInstrumentor(HooksInstrumentor):
    """Records the ``TrainingArguments`` of a ``Trainer``."""

    dependencies = ("transformers >= 4.40",)
    hooks = Hooks([Target("transformers.trainer", "Trainer", "train", around(_train))])
