"""The stages of a Lightning run: their spans, their checkpoints and the model's summary."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, TracerProvider

from tracelet_otel import recording
from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.hooks import Call
from tracelet_otel.instrumentation.lightning import private
from tracelet_otel.instrumentation.lightning.checkpoints import CheckpointLog
from tracelet_otel.instrumentation.lightning.metrics import metric_log
from tracelet_otel.instrumentation.lightning.writers import Owner, writer_of
from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.recording.recorder import SCOPE_NAME
from tracelet_otel.secrets.spans import record_failure
from tracelet_otel.version import VERSION

SUMMARY_TAG = "model_summary"
_QUIET_PRECISIONS = ("32-true", "64-true", "16-true", "bf16-true")
"""Those at which Lightning summarizes a model without a warning."""
_NO_FAILURE = ("_TunerExitException", "StopIteration")
"""Exceptions by which Lightning leaves a trial fit, and a loop."""

_guard = Guard("the hook of Lightning's stages")


class OpenSpan:
    """A span that is current from its construction until :meth:`close`, in the same thread."""

    def __init__(self, name: str, attributes: Mapping[str, int], provider: TracerProvider | None) -> None:
        self.span: Span = trace.INVALID_SPAN
        self._token = None
        with _guard:
            tracer = trace.get_tracer(SCOPE_NAME, VERSION, provider)
            self.span = tracer.start_span(name, attributes=attributes)
            if self.span.get_span_context().is_valid:  # not without a TracerProvider
                self._token = otel_context.attach(trace.set_span_in_context(self.span))

    def close(self, error: BaseException | None = None) -> None:
        """Makes the span's parent current again and ends the span, with the error that was raised in it."""
        self.drop()
        with _guard:
            if error is not None and type(error).__name__ not in _NO_FAILURE:
                record_failure(self.span, error)
            metric_log().end(self.span)

    def drop(self) -> None:
        """Makes the span's parent current again. The span never ends, so nobody hears of it."""
        with _guard:
            if self._token is not None:
                otel_context.detach(self._token)
                self._token = None


@dataclass(slots=True)
class Stage:
    """One call of `Trainer._run`: a fit, validation, test or prediction."""

    trainer: Any
    running: bool = False
    """Whether everything is set up: hyperparameters given to the loggers, the model summarized."""
    trial: bool = False
    loops: list[Any] = field(default_factory=list[Any])
    fit: OpenSpan | None = None
    epoch: OpenSpan | None = None
    evaluation: OpenSpan | None = None
    summarized: bool = False
    checkpoints: CheckpointLog = field(default_factory=CheckpointLog)

    def metrics_span(self) -> Span | None:
        """The span that gets the metrics of an epoch: the epoch's, those of its validation included."""
        open_span = self.epoch or self.evaluation or self.fit
        return open_span.span if open_span is not None else None

    def close_epoch(self, error: BaseException | None = None) -> None:
        """Ends the epoch's span, if one is open."""
        epoch, self.epoch = self.epoch, None
        if epoch is not None:
            epoch.close(error)

    @property
    def is_heard(self) -> bool:
        """Whether this process is the one of its trainer's that records, as far as it is known now.

        A process that a strategy has spawned or forked learns its rank from the strategy, after `_run` began.
        """
        return bool(self.trainer.is_global_zero)

    def end(self, error: BaseException | None = None) -> None:
        """Records the last checkpoints, and ends the span of a fit."""
        with _guard:
            self.checkpoints.close()
        if self.fit is not None and self.is_heard:
            self.fit.close(error)
        elif self.fit is not None:
            self.fit.drop()


_stage: ContextVar[Stage | None] = ContextVar("tracelet_lightning_stage", default=None)


def current_stage() -> Stage | None:
    """The stage that this thread is in, if it is one that records."""
    stage = _stage.get()
    return None if stage is None or stage.trial or not stage.is_heard else stage


def on_silent_rank() -> bool:
    """Whether this thread is in a stage of a process that does not record, where loggers drop everything."""
    stage = _stage.get()
    return stage is not None and not stage.is_heard


def records(trainer: Any) -> bool:
    """Whether what this trainer logs now is what its loggers get, or would get."""
    stage = _stage.get()
    if stage is not None and stage.trial and stage.trainer is trainer:
        return False
    return bool(trainer.is_global_zero) and not trainer.fast_dev_run


@contextmanager
def _closing(close: Callable[[BaseException | None], None]) -> Generator[None]:
    """Calls ``close`` at the end of the block, with what the block raises."""
    try:
        yield
    except BaseException as error:
        close(error)
        raise
    close(None)


def _looped(call: Call, loop: Any, around: Callable[[Stage], AbstractContextManager[None]]) -> Any:
    """Makes the call of a loop: inside ``around``, unless it is a trial of Lightning's tuner.

    The tuner finds learning rates and batch sizes from inside callbacks: it runs the trainer's loop
    before the trainer does, or again inside its run, with loggers and callbacks taken away.
    """
    stage = _stage.get()
    if stage is None or not stage.is_heard:
        return call()
    before = stage.trial
    stage.trial = before or not stage.running or any(loop is outer for outer in stage.loops)
    stage.loops.append(loop)
    try:
        with nullcontext() if stage.trial else around(stage):
            return call()
    finally:
        stage.loops.pop()
        stage.trial = before


class StageHooks:
    """Wrappers for the beginnings and ends of stages, and what happens in between but metrics.

    Args:
        package: `lightning.pytorch` or `pytorch_lightning`.
        begin: called with the trainer when a stage begins.
        set_up: called with the trainer when everything is set up.
    """

    provider: TracerProvider | None = None
    """Where spans come from; None is the global one."""

    def __init__(self, package: str, begin: Callable[[Any], None], set_up: Callable[[Any], None]) -> None:
        self._package = package
        self._begin = begin
        self._set_up = set_up

    def run(self, call: Call, trainer: Any, *_: Any, **__: Any) -> Any:
        """Around `Trainer._run`; a trainer inside another's run has a stage of its own."""
        # Without the hook that tells when everything is set up, a trial of the tuner cannot be told apart.
        running = not hasattr(trainer, private.RUN_STAGE.attribute)
        stage = Stage(trainer, running) if records(trainer) else None
        token = _stage.set(stage)
        try:
            if stage is None:
                return call()
            with _guard:
                self._begin(trainer)
                stage.fit = self._open("fit") if trainer.state.fn == "fit" else None
            with _closing(stage.end):
                return call()
        finally:
            _stage.reset(token)

    def run_stage(self, call: Call, trainer: Any, *_: Any, **__: Any) -> Any:
        """Around `Trainer._run_stage`: everything is set up."""
        stage = _stage.get()
        if stage is not None and stage.trainer is trainer:
            stage.running = True
            if stage.is_heard:
                with _guard:
                    self._set_up(trainer)
                with _guard:
                    self._ensure_summary(stage)
        return call()

    def fit(self, call: Call, loop: Any, *_: Any, **__: Any) -> Any:
        """Around `_FitLoop.run`; an epoch that is left by StopIteration ends with it."""
        return _looped(call, loop, lambda stage: _closing(stage.close_epoch))

    def epoch_start(self, call: Call, loop: Any, *_: Any, **__: Any) -> Any:
        """Around `_FitLoop.on_advance_start`, the first of an epoch."""
        stage = current_stage()
        if stage is not None:
            stage.close_epoch()
            with _guard:
                stage.epoch = self._open("epoch", epoch=int(loop.trainer.current_epoch))
        return call()

    def epoch_end(self, call: Call, loop: Any, *_: Any, **__: Any) -> Any:
        """Around `_FitLoop.on_advance_end`, the last of an epoch, in which its metrics are logged."""
        result = call()
        stage = current_stage()
        if stage is not None:
            stage.close_epoch()
        return result

    def evaluate(self, call: Call, loop: Any, *_: Any, **__: Any) -> Any:
        """Around `_EvaluationLoop.run`, alone or inside an epoch."""
        running = str(getattr(loop.trainer.state.stage, "value", ""))  # Lightning's `RunningStage`
        name = running if running in ("sanity_check", "test") else "validation"
        return _looped(call, loop, lambda stage: self._evaluation(stage, name))

    def predict(self, call: Call, loop: Any, *_: Any, **__: Any) -> Any:
        """Around `_PredictionLoop.run`."""
        return _looped(call, loop, lambda stage: self._evaluation(stage, "predict"))

    def save_checkpoint(self, call: Call, callback: Any, trainer: Any, filepath: str, *_: Any) -> Any:
        """Around `ModelCheckpoint._save_checkpoint`."""
        result = call()
        stage = current_stage()
        if stage is not None and (recorder := recording.current()) is not None:
            with _guard:
                stage.checkpoints.saved(writer_of(recorder, Owner.of(trainer)), callback, trainer, filepath)
        return result

    def summarize(self, call: Call, callback: Any, *_: Any, **__: Any) -> Any:
        """Around `ModelSummary._summary`, which makes the summary that Lightning prints."""
        summary = call()
        stage = current_stage()
        if stage is not None:
            with _guard:
                self._record_summary(stage, summary)
        return summary

    def _open(self, name: str, **attributes: int) -> OpenSpan:
        return OpenSpan(name, attributes, self.provider)

    @contextmanager
    def _evaluation(self, stage: Stage, name: str) -> Generator[None]:
        stage.evaluation = self._open(name)
        try:
            with _closing(stage.evaluation.close):
                yield
        finally:
            stage.evaluation = None

    def _ensure_summary(self, stage: Stage) -> None:
        """Summarizes the model if Lightning has not, where that is cheap and silent."""
        trainer, model = stage.trainer, stage.trainer.lightning_module
        if (
            stage.fit is None
            or stage.summarized
            or recording.current() is None
            or model.example_input_array is not None  # it would be run through the model
            or trainer.precision not in _QUIET_PRECISIONS
            or type(trainer.strategy).__name__ == "DeepSpeedStrategy"  # has a summary of its own
        ):
            return
        summarize = import_module(f"{self._package}.utilities.model_summary").summarize
        self._record_summary(stage, summarize(model, max_depth=1))

    def _record_summary(self, stage: Stage, summary: object) -> None:
        stage.summarized = True
        if (recorder := recording.current()) is not None:
            writer = writer_of(recorder, Owner.of(stage.trainer))
            text = str(summary).encode("utf-8", "backslashreplace")
            recorder.event(
                LoggedEvent("text", writer.name(SUMMARY_TAG), 0, text, "text/plain", run=writer.run)
            )
