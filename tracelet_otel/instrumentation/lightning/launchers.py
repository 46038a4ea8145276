"""The processes of a strategy that starts them itself: they join the run of the process that starts them."""

from __future__ import annotations

from typing import Any

from tracelet_otel import recording
from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.hooks import Call

_guard = Guard("the hook of Lightning's launchers")


def spawn(call: Call, launcher: Any, *_: Any, trainer: Any = None, **__: Any) -> Any:
    """Around `_MultiProcessingLauncher.launch`: `ddp_spawn`, `ddp_fork`, `ddp_notebook`."""
    with _guard:
        _open_run(trainer)
    return call()


def start_scripts(call: Call, launcher: Any, *_: Any, trainer: Any = None, **__: Any) -> Any:
    """Around `_SubprocessScriptLauncher.launch`: `ddp` without a launcher around it, on rank 0."""
    with _guard:
        if not launcher.cluster_environment.creates_processes_externally:
            _open_run(trainer)
    return call()


def _open_run(trainer: Any) -> None:
    """Opens the run, which is a fit's or a test's now: only an open run is known to children."""
    recorder = recording.current()
    if recorder is not None and trainer is not None and not trainer.fast_dev_run:
        recorder.scope.current().open()
