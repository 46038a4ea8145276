"""What Lightning, its callbacks and its users hand to a trainer's loggers: metrics and hyperparameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from inspect import currentframe
from typing import Any, cast
from weakref import WeakKeyDictionary

from tracelet_otel import recording
from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.hooks import Call, Wrap, around, silence_loggers, silenced, wrapped
from tracelet_otel.instrumentation.lightning import private
from tracelet_otel.instrumentation.lightning.metrics import metric_log
from tracelet_otel.instrumentation.lightning.stages import current_stage, on_silent_rank, records
from tracelet_otel.instrumentation.lightning.writers import Owner, is_a, writer_of
from tracelet_otel.recording.contents import plain
from tracelet_otel.recording.logged import json_event
from tracelet_otel.recording.recorder import Recorder

_guard = Guard("the hook of Lightning's loggers")
_OURS = ("tracelet_otel.", "functools", "wrapt.")
_FOR_ALL_LOGGERS = tuple(
    f"{package}.{module}"
    for package in ("lightning.pytorch", "pytorch_lightning")
    for module in ("callbacks.", "loggers.utilities")
)
"""Modules of Lightning that go through all loggers of a trainer."""


class LoggerHooks:
    """Wrappers for the places where something is handed to a trainer's loggers."""

    def __init__(self) -> None:
        self._owners: WeakKeyDictionary[Any, Owner] = WeakKeyDictionary()
        """By each logger: the last trainer that had it."""
        self._wraps: dict[tuple[type, str], Wrap] = {}

    def log_metrics(self, call: Call, connector: Any, *args: Any, **kwargs: Any) -> Any:
        """Around `_LoggerConnector.log_metrics(metrics, step=None)`; it is called without loggers too."""
        with _guard:
            self._record_metrics(connector, *args, **kwargs)
        with silence_loggers():
            return call()

    def _record_metrics(self, connector: Any, metrics: Mapping[str, Any], step: int | None = None) -> None:
        # The step and the metric "epoch" are chosen as `_LoggerConnector.log_metrics` does.
        trainer, recorder = connector.trainer, recording.current()
        if recorder is None or not metrics or not records(trainer):
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
        writer = writer_of(recorder, Owner.of(trainer))
        metric_log().log(writer, metrics, chosen, stage.metrics_span() if stage is not None else None)

    def trainer_init(self, call: Call, connector: Any, *_: Any, **__: Any) -> Any:
        """Around `_LoggerConnector.on_trainer_init`, which gives a new trainer its loggers."""
        result = call()
        with _guard:
            if connector.trainer.is_global_zero:
                self.watch(connector.trainer)
        return result

    def record_params(self, trainer: Any) -> None:
        """Records the hyperparameters that Lightning has given to the loggers, or would have given."""
        if trainer.enable_autolog_hparams:
            _record_params(Owner.of(trainer), _merged(trainer))

    def watch(self, trainer: Any) -> None:
        """From now on, records what is handed to this trainer's loggers directly."""
        owner = Owner.of(trainer)
        if (recorder := recording.current()) is not None:
            writer_of(recorder, owner)  # known before anything is written to its loggers' folders
        for logger in trainer.loggers:
            if is_a(logger, "DummyLogger"):
                continue
            self._owners[logger] = owner
            for name, record in (
                ("log_metrics", self._record_directly),
                ("log_hyperparams", self._record_params_directly),
            ):
                home = next((base for base in type(logger).__mro__ if name in vars(base)), None)
                if home is not None:
                    hook = around(partial(self._directly, record))
                    self._wraps[home, name] = wrapped(self._wraps.get((home, name)), home, name, hook)

    def unwatch(self) -> None:
        """Undoes :meth:`watch`."""
        for wrap in self._wraps.values():
            wrap.remove()
        self._owners.clear()

    def _directly(
        self, record: Callable[..., None], call: Call, logger: Any, *args: Any, **kwargs: Any
    ) -> Any:
        owner = None if silenced() or on_silent_rank() else self._owners.get(logger)
        if owner is None:
            return call()
        recorder = recording.current()
        if recorder is not None and not (_is_for_all_loggers() and logger is not owner.first()):
            with _guard:
                record(recorder, owner, logger, *args, **kwargs)
        with silence_loggers():
            return call()

    def _record_directly(
        self, recorder: Recorder, owner: Owner, logger: Any, metrics: Mapping[str, Any], step: Any = None
    ) -> None:
        writer = writer_of(recorder, owner, logger)
        metric_log().log(writer, metrics, _own_step(logger) if step is None else step)

    def _record_params_directly(
        self,
        recorder: Recorder,
        owner: Owner,
        logger: Any,
        params: Any = None,
        metrics: Any = None,
        step: int | None = None,
        **_: Any,
    ) -> None:
        if _is_for_all_loggers():
            return  # Lightning, on its way to where `record_params` is called
        _record_params(owner, params)
        if metrics is not None:
            if not isinstance(metrics, Mapping):
                metrics = {"hp_metric": metrics}
            self._record_directly(recorder, owner, logger, cast("Mapping[str, Any]", metrics), step)


def _is_for_all_loggers() -> bool:
    """Whether Lightning itself is handing something to each of a trainer's loggers: one of its callbacks."""
    frame = currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__", "").startswith(_FOR_ALL_LOGGERS)


def _own_step(logger: Any) -> int:
    """The step that a logger itself writes where it is given none."""
    if is_a(logger, "CSVLogger"):
        return len(logger.experiment.metrics)
    stage = current_stage()
    if stage is None or is_a(logger, "TensorBoardLogger") or is_a(logger, "MLFlowLogger"):
        return 0
    return _logging_step(stage.trainer)


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


def _record_params(owner: Owner, params: Any) -> None:
    recorder = recording.current()
    if not params or recorder is None:
        return
    content = plain(params)
    writer = writer_of(recorder, owner)
    if isinstance(content, dict):
        named = cast("dict[str, Any]", content)
        content = {writer.name(name): value for name, value in named.items()}
    recorder.event(json_event("params", json.dumps(content).encode("ascii"), writer.run))


def _logging_step(trainer: Any) -> int:
    steps = private.BATCHES_THAT_STEPPED.get(trainer.fit_loop.epoch_loop)
    return trainer.global_step if steps is None else steps
