"""Hooks into Lightning: what it gives to its loggers, and would give to them if it had any.

Everything is hooked where Lightning itself decides what to log, at which step and under which name,
and no callback or logger is added: a trainer's loggers, callbacks, folders and results stay as they
are. A value that Lightning then hands to its loggers is recorded here, once, and the hooks of what is
behind those loggers are silenced for that call.

=====================================  ======================================================
`_LoggerConnector.log_metrics`         metrics of every stage; it is called without loggers too
`log_metrics`, `log_hyperparams`       what callbacks (`LearningRateMonitor`) and users hand to
of each logger of a trainer            a trainer's logger directly; known since
                                       `_LoggerConnector.on_trainer_init`
`Trainer._run_stage`                   hyperparameters, once Lightning has given them to loggers
`ModelCheckpoint._save_checkpoint`     checkpoints
`ModelSummary._summary`                the model summary that Lightning prints
`Trainer._run`, `_FitLoop`,            spans: fit, epoch, validation, test, predict,
`_EvaluationLoop`, `_PredictionLoop`   sanity_check
`launch` of two launchers              the run opens here: the processes that they start join it
=====================================  ======================================================

``Trainer(fast_dev_run=...)`` and the trials of Lightning's tuner record nothing: Lightning gives their
metrics to no logger, and saves no checkpoints. Of several processes only the one with global rank 0
records, as with Lightning's loggers. A process that a strategy has spawned learns its rank after `_run`
began, so the rank is asked for at each use.
"""

from __future__ import annotations

from typing import Any, cast

from tracelet_otel.instrumentation.hooks import Hooks, HooksInstrumentor, Target, around
from tracelet_otel.instrumentation.lightning import launchers, private
from tracelet_otel.instrumentation.lightning.loggers import LoggerHooks
from tracelet_otel.instrumentation.lightning.stages import StageHooks


class _LightningHooks(Hooks):
    """The hooks into one of the packages.

    Args:
        package: `lightning.pytorch` or `pytorch_lightning`.
    """

    def __init__(self, package: str) -> None:
        self._loggers = loggers = LoggerHooks()
        self.stages = stages = StageHooks(package, loggers.watch, loggers.record_params)
        hooks = {
            private.LOG_METRICS: loggers.log_metrics,
            private.TRAINER_INIT: loggers.trainer_init,
            private.RUN: stages.run,
            private.RUN_STAGE: stages.run_stage,
            private.FIT: stages.fit,
            private.EPOCH_START: stages.epoch_start,
            private.EPOCH_END: stages.epoch_end,
            private.EVALUATE: stages.evaluate,
            private.PREDICT: stages.predict,
            private.SAVE_CHECKPOINT: stages.save_checkpoint,
            private.SUMMARY: stages.summarize,
            private.SPAWN: launchers.spawn,
            private.START_SCRIPTS: launchers.start_scripts,
        }
        super().__init__(
            [
                Target(f"{package}.{name.module}", name.owner, name.attribute, around(hook))
                for name, hook in hooks.items()
            ]
        )

    def disable(self) -> None:
        """Undoes `enable()`."""
        super().disable()
        self._loggers.unwatch()


class _Instrumentor(HooksInstrumentor):
    """Hooks into one package when it is imported.

    Args of `instrument()`:
        tracer_provider: where spans come from; the global one if not given.
    """

    def _instrument(self, **kwargs: Any) -> None:
        cast("_LightningHooks", self.hooks).stages.provider = kwargs.get("tracer_provider")
        super()._instrument(**kwargs)


class LightningInstrumentor(_Instrumentor):
    """Hooks into `lightning.pytorch` of the package `lightning`."""

    dependencies = ("lightning >= 2.1",)
    hooks = _LightningHooks("lightning.pytorch")


class PyTorchLightningInstrumentor(_Instrumentor):
    """Hooks into the package `pytorch_lightning`."""

    dependencies = ("pytorch_lightning >= 2.1",)
    hooks = _LightningHooks("pytorch_lightning")
