"""Lightning's private names that we use. A release may lack any one: then only what it says is lost.

Methods are hooked: one that is missing costs its own hook. Attributes are read from objects of the user's.
"""

from __future__ import annotations

from typing import Final

from tracelet_otel.foundation.private_names import PrivateNames

LIGHTNING: Final = PrivateNames("Lightning", "lightning")

_CONNECTOR: Final = "trainer.connectors.logger_connector.logger_connector:_LoggerConnector"

LOG_METRICS: Final = LIGHTNING.optional(
    f"{_CONNECTOR}.log_metrics", "metrics that Lightning hands to its loggers are not recorded"
)
TRAINER_INIT: Final = LIGHTNING.optional(
    f"{_CONNECTOR}.on_trainer_init", "what loggers are handed before their trainer runs is not recorded"
)
RUN: Final = LIGHTNING.optional(
    "trainer.trainer:Trainer._run",
    "no spans, parameters, checkpoints and summaries of models; trials of the tuner are recorded",
)
RUN_STAGE: Final = LIGHTNING.optional(
    "trainer.trainer:Trainer._run_stage", "hyperparameters are not recorded, and trials of the tuner are"
)
FIT: Final = LIGHTNING.optional("loops.fit_loop:_FitLoop.run", "there is no span of the fit")
EPOCH_START: Final = LIGHTNING.optional(
    "loops.fit_loop:_FitLoop.on_advance_start", "there are no spans of epochs"
)
EPOCH_END: Final = LIGHTNING.optional(
    "loops.fit_loop:_FitLoop.on_advance_end", "spans of epochs end with the fit"
)
EVALUATE: Final = LIGHTNING.optional(
    "loops.evaluation_loop:_EvaluationLoop.run", "there are no spans of validations and tests"
)
PREDICT: Final = LIGHTNING.optional(
    "loops.prediction_loop:_PredictionLoop.run", "there are no spans of predictions"
)
SAVE_CHECKPOINT: Final = LIGHTNING.optional(
    "callbacks.model_checkpoint:ModelCheckpoint._save_checkpoint", "checkpoints are not recorded"
)
SUMMARY: Final = LIGHTNING.optional(
    "callbacks.model_summary:ModelSummary._summary",
    "the model's summary is not the one that Lightning prints",
)

_NO_LAUNCH = "the processes that it starts may write runs of their own"
SPAWN: Final = LIGHTNING.optional(
    "strategies.launchers.multiprocessing:_MultiProcessingLauncher.launch", _NO_LAUNCH
)
START_SCRIPTS: Final = LIGHTNING.optional(
    "strategies.launchers.subprocess_script:_SubprocessScriptLauncher.launch", _NO_LAUNCH
)

FIRST_LOOP_ITER: Final = LIGHTNING.optional(
    f"{_CONNECTOR}._first_loop_iter", "metrics of an epoch are not on the span of their stage"
)
BATCHES_THAT_STEPPED: Final = LIGHTNING.optional(
    "loops.training_epoch_loop:_TrainingEpochLoop._batches_that_stepped",
    "steps are counted by optimizer where there are several",
)
LOG_HYPERPARAMS: Final = LIGHTNING.optional(
    "core.module:LightningModule._log_hyperparams",
    "hyperparameters are recorded too that save_hyperparameters(logger=False) keeps from loggers",
)
HPARAMS_INITIAL: Final = LIGHTNING.optional(
    "core.module:LightningModule._hparams_initial", "hyperparameters are copied before they are recorded"
)
PREFIX: Final = LIGHTNING.optional(
    "loggers.csv_logs:CSVLogger()._prefix", "metrics have no prefix that a logger gives them"
)
_NUMBERED: Final = "where several trainers have such a logger, they are told apart by numbers"
MLFLOW_RUN: Final = LIGHTNING.optional("loggers.mlflow:MLFlowLogger()._run_name", _NUMBERED)
WANDB_RUN: Final = LIGHTNING.optional("loggers.wandb:WandbLogger()._name", _NUMBERED)
