"""Lightning's private names that we use. A release may lack any one: then only what it says is lost.

Methods are hooked: one that is missing costs its own hook. Attributes are read from objects of the user's.
"""

from __future__ import annotations

from typing import Final

from tracelet_otel.foundation.private import PrivateName

_METRICS: Final = "metrics that Lightning hands to its loggers are not recorded"
_CONNECTOR: Final = "trainer.connectors.logger_connector.logger_connector:_LoggerConnector"
_TRAINER: Final = "trainer.trainer:Trainer"
_FIT_LOOP: Final = "loops.fit_loop:_FitLoop"

LOG_METRICS: Final = PrivateName(_CONNECTOR, "log_metrics", _METRICS)
RUN: Final = PrivateName(
    _TRAINER,
    "_run",
    "no spans, parameters, checkpoints and summaries of models; trials of the tuner are recorded",
)
RUN_STAGE: Final = PrivateName(
    _TRAINER, "_run_stage", "hyperparameters are not recorded, and trials of the tuner are"
)
FIT: Final = PrivateName(_FIT_LOOP, "run", "there is no span of the fit")
EPOCH_START: Final = PrivateName(_FIT_LOOP, "on_advance_start", "there are no spans of epochs")
EPOCH_END: Final = PrivateName(_FIT_LOOP, "on_advance_end", "spans of epochs end with the fit")
EVALUATE: Final = PrivateName(
    "loops.evaluation_loop:_EvaluationLoop", "run", "there are no spans of validations and tests"
)
PREDICT: Final = PrivateName(
    "loops.prediction_loop:_PredictionLoop", "run", "there are no spans of predictions"
)
SAVE_CHECKPOINT: Final = PrivateName(
    "callbacks.model_checkpoint:ModelCheckpoint", "_save_checkpoint", "checkpoints are not recorded"
)
SUMMARY: Final = PrivateName(
    "callbacks.model_summary:ModelSummary",
    "_summary",
    "the model's summary is not the one that Lightning prints",
)

FIRST_LOOP_ITER: Final = PrivateName(
    _CONNECTOR, "_first_loop_iter", "metrics of an epoch are not on the span of their stage"
)
BATCHES_THAT_STEPPED: Final = PrivateName(
    "loops.training_epoch_loop:_TrainingEpochLoop",
    "_batches_that_stepped",
    "steps are counted by optimizer where there are several",
)
LOG_HYPERPARAMS: Final = PrivateName(
    "core.module:LightningModule",
    "_log_hyperparams",
    "hyperparameters are recorded too that save_hyperparameters(logger=False) keeps from loggers",
)
HPARAMS_INITIAL: Final = PrivateName(
    "core.module:LightningModule", "_hparams_initial", "hyperparameters are copied before they are recorded"
)
