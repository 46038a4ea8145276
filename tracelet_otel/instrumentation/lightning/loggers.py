"""What Lightning, its callbacks and its users hand to a trainer's loggers: metrics and hyperparameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast
from weakref import WeakSet

from tracelet_otel import recording
from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.hooks import Call, Wrap, around, silence_loggers, silenced, wrapped
from tracelet_otel.instrumentation.lightning import private
from tracelet_otel.instrumentation.lightning.metrics import metric_log
from tracelet_otel.instrumentation.lightning.stages import current_stage, on_silent_rank, records
from tracelet_otel.recording.contents import plain
from tracelet_otel.recording.logged import json_event

_guard = Guard("the hook of Lightning's loggers")


class LoggerHooks:
    """Wrappers for the places where something is handed to a trainer's loggers."""

    def __init__(self) -> None:
        self._loggers: WeakSet[Any] = WeakSet()
        self._wraps: dict[tuple[type, str], Wrap] = {}
        self._handed: tuple[Mapping[str, Any], object, set[int]] = ({}, None, set())

    def log_metrics(self, call: Call, connector: Any, *args: Any, **kwargs: Any) -> Any:
        """Around `_LoggerConnector.log_metrics(metrics, step=None)`; it is called without loggers too."""
        with _guard:
            self._record_metrics(connector, *args, **kwargs)
        with silence_loggers():
            return call()

    def _record_metrics(self, connector: Any, metrics: Mapping[str, Any], step: int | None = None) -> None:
        # The step and the metric "epoch" are chosen as `_LoggerConnector.log_metrics` does.
        trainer = connector.trainer
        if recording.current() is None or not metrics or not records(trainer):
            return
        chosen: Any = step
        if step is None:
            metrics = dict(metrics)
            chosen = metrics.pop("step", None)
            if chosen is None:
                metrics.setdefault("epoch", trainer.current_epoch)
                chosen = _logging_step(trainer)
        # The metrics of an epoch, not of a batch, are on a span too.
        stage = current_stage() if private.FIRST_LOOP_ITER.get(connector, False) is None else None
        metric_log().log(metrics, chosen, stage.metrics_span() if stage is not None else None)

    def record_params(self, trainer: Any) -> None:
        """Records the hyperparameters that Lightning has given to the loggers, or would have given."""
        if trainer.enable_autolog_hparams:
            _record_params(_merged(trainer))

    def watch(self, trainer: Any) -> None:
        """From now on, records what is handed to this trainer's loggers directly."""
        for logger in trainer.loggers:
            if type(logger).__name__ == "DummyLogger":
                continue
            self._loggers.add(logger)
            for name, record in (
                ("log_metrics", self._record_directly),
                ("log_hyperparams", self._record_params_directly),
            ):
                owner = next((base for base in type(logger).__mro__ if name in vars(base)), None)
                if owner is not None:
                    hook = around(partial(self._directly, record))
                    self._wraps[owner, name] = wrapped(self._wraps.get((owner, name)), owner, name, hook)

    def unwatch(self) -> None:
        """Undoes :meth:`watch`."""
        for wrap in self._wraps.values():
            wrap.remove()
        self._loggers.clear()

    def _directly(
        self, record: Callable[..., None], call: Call, logger: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if silenced() or logger not in self._loggers or on_silent_rank():
            return call()
        with _guard:
            record(logger, *args, **kwargs)
        with silence_loggers():
            return call()

    def _record_directly(self, logger: Any, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if self._is_repeat(logger, metrics, step):
            return
        if step is None:
            stage = current_stage()
            step = _logging_step(stage.trainer) if stage is not None else 0
        metric_log().log(metrics, step)

    def _is_repeat(self, logger: Any, metrics: Mapping[str, Any], step: object) -> bool:
        """Whether another logger has just been handed the same: callbacks loop over a trainer's loggers."""
        last, last_step, loggers = self._handed
        if step == last_step and id(logger) not in loggers and _same(metrics, last):
            loggers.add(id(logger))
            return True
        self._handed = (dict(metrics), step, {id(logger)})
        return False

    def _record_params_directly(
        self, logger: Any, params: Any = None, metrics: Any = None, step: int | None = None, **_: Any
    ) -> None:
        stage = current_stage()
        if stage is not None and not stage.running and plain(params) == plain(_merged(stage.trainer)):
            return  # Lightning, most likely, on its way to where `record_params` is called
        _record_params(params)
        if isinstance(metrics, Mapping):
            self._record_directly(logger, cast("Mapping[str, Any]", metrics), step)
        elif metrics is not None:
            self._record_directly(logger, {"hp_metric": metrics}, step)


def _merged(trainer: Any) -> dict[str, Any]:
    """What Lightning gives to its loggers: the module's hyperparameters and the data module's.

    Lightning refuses to start if both have a name with different values, unless it has no logger; then
    the data module's is kept as ``datamodule.<name>``.
    """
    model, data = _initial(trainer.lightning_module), _initial(trainer.datamodule)
    params = {name: value for name, value in model.items() if name != "_class_path"}
    for name, value in data.items():
        if name == "_class_path":  # LightningCLI's own
            continue
        differs = name in params and plain(params[name]) != plain(value)
        params[f"datamodule.{name}" if differs else name] = value
    return params


def _initial(holder: Any) -> Mapping[str, Any]:
    if holder is None or not private.LOG_HYPERPARAMS.get(holder, True):
        return {}
    # The public `hparams_initial` is a deep copy, which for a model among the values costs its memory.
    initial = getattr(holder, private.HPARAMS_INITIAL.attribute, None)
    return initial or getattr(holder, "hparams_initial", {})


def _record_params(params: Any) -> None:
    if params and recording.current() is not None:
        recording.event(json_event("params", json.dumps(plain(params)).encode("ascii")))


def _logging_step(trainer: Any) -> int:
    steps = private.BATCHES_THAT_STEPPED.get(trainer.fit_loop.epoch_loop)
    return trainer.global_step if steps is None else steps


def _same(metrics: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether both hold the same, without comparing tensors, which may have to be waited for."""
    return metrics.keys() == others.keys() and all(
        value is others[name]
        or (type(value) in (int, float) and type(others[name]) in (int, float) and value == others[name])
        for name, value in metrics.items()
    )
