"""What the process tells of its end and of its script: errors, the status after one, the script's name."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from tracelet_otel.instrumentation.ray.script import task_script
from tracelet_otel.recording.run import digits_of
from tracelet_otel.semconv import Status


def status_of(error: BaseException | None) -> Status:
    """The status of a run whose block was left with ``error``."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "finished"
    # Lightning turns an interrupt into SystemExit(1).
    interrupted = isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)
    return "killed" if interrupted else "failed"


def default_name(run_id: str) -> str:
    """The name of a run without one: of the script, the time, and digits, as others may start with it."""
    return f"{script_name()}-{time.strftime('%Y%m%d-%H%M%S')}-{digits_of(run_id)}"


def script_name() -> str:
    """The name of the running script, without its folder and ending."""
    script = Path(task_script() or (getattr(sys, "argv", None) or [""])[0])
    stem = script.stem
    if stem == "__main__":  # python -m package
        stem = script.parent.name
    return stem if stem not in ("", "-c", "-m", "ipykernel_launcher") else "run"


def last_error() -> object:
    """The exception that ends the program, if any; the interpreter sets it, whatever the excepthook does."""
    return getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)


def interactive() -> bool:
    """In a notebook or REPL errors and interrupts end a cell, not the process."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def keep_interrupted() -> None:
    """Has Python end by SIGINT after all, whatever was imported at the end."""
    # Python ends with the signal's own exit code after a KeyboardInterrupt that was not caught. It knows
    # from a flag that the next evaluation of a source text clears, and what is imported at the end
    # evaluates some; one that raises sets it again. Source: CPython, Python/pythonrun.c, run_eval_code_obj.
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")
