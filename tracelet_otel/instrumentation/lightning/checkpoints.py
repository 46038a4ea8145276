"""Checkpoints that Lightning's ModelCheckpoint saves, as ``artifact`` records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from time import time_ns
from typing import Any

from opentelemetry.util.types import AnyValue

from tracelet_otel import recording, semconv
from tracelet_otel.instrumentation.lightning.metrics import to_number
from tracelet_otel.instrumentation.lightning.writers import Writer, is_a
from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.recording.media import MAX_INLINE_BYTES
from tracelet_otel.settings import CheckpointPolicy


def _uploads(policy: CheckpointPolicy) -> bool:
    """Whether the session told its recorder to upload checkpoints by this policy."""
    recorder = recording.current()
    return recorder is not None and recorder.checkpoints == policy


@dataclass(slots=True)
class _Saved:
    """One save of a checkpoint."""

    callback: Any
    path: str
    name: str
    step: int
    time_unix_nano: int
    score: float | None
    monitor: str
    best: bool


@dataclass(slots=True)
class CheckpointLog:
    """Records the checkpoints of one fit."""

    _unwritten: list[_Saved] = field(default_factory=list[_Saved])
    _last: dict[str, _Saved] = field(default_factory=dict[str, _Saved])

    def saved(self, writer: Writer, callback: Any, trainer: Any, path: str) -> None:
        """Records a save; one that ``AsyncCheckpointIO`` is still writing waits for :meth:`close`."""
        monitor = str(callback.monitor or "")
        score = callback.best_k_models.get(path, trainer.callback_metrics.get(monitor)) if monitor else None
        # Reading the score waits for nothing: saving has just waited for the whole state.
        value = number[0] if (number := to_number(score)) is not None else None
        best = path == callback.best_model_path
        name, step = _named(writer, callback, path), int(trainer.global_step)
        save = _Saved(callback, path, name, step, time_ns(), value, monitor, best)
        self._last[path] = save
        if is_a(trainer.strategy.checkpoint_io, "AsyncCheckpointIO"):
            self._unwritten.append(save)
        else:
            _record(save, upload=_uploads("all"))

    def close(self) -> None:
        """At the end of a fit: records what was written meanwhile, and uploads the best of each callback."""
        for save in self._unwritten:
            _record(save, upload=_uploads("all"))
        self._unwritten.clear()
        if _uploads("best"):
            for path, save in self._last.items():
                if path == save.callback.best_model_path:
                    save.best, save.time_unix_nano = True, time_ns()
                    _record(save, upload=True)


def _named(writer: Writer, callback: Any, saved: str) -> str:
    path, folder = Path(saved), str(callback.dirpath or "")
    # With the folders below the callback's own that a metric's name may have made.
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    return writer.checkpoint(folder, name)


def _record(save: _Saved, *, upload: bool) -> None:
    path, name = Path(save.path), save.name
    attributes: dict[str, AnyValue] = {
        semconv.FILE_NAME: name,
        semconv.CHECKPOINT_PATH: save.path,
        semconv.CHECKPOINT_BEST: save.best,
    }
    if save.monitor:
        attributes[semconv.CHECKPOINT_MONITOR] = save.monitor
    if save.score is not None:
        attributes[semconv.CHECKPOINT_SCORE] = save.score
    payload: bytes | None = None
    if path.exists():  # not if it is remote, or was removed by now
        # Of a folder, a sharded checkpoint, everything in it.
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        attributes[semconv.CHECKPOINT_SIZE] = size
        if upload and path.is_file():
            recorder = recording.current()
            if size <= MAX_INLINE_BYTES:
                payload = path.read_bytes()
            elif recorder is not None:
                attributes[semconv.PAYLOAD_URI] = recorder.media.keep_file(path)
                attributes[semconv.PAYLOAD_SIZE] = size
    mime_type = "application/octet-stream"
    recording.event(
        LoggedEvent("artifact", name, save.step, payload, mime_type, attributes, save.time_unix_nano)
    )
