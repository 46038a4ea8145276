"""How a run in a worker of Ray ends: as its tasks did, not as its process does.

Ray stops a worker that it needs no more by SIGTERM and, a fifth of a second later, SIGKILL, or lets it end
at once: when a trial of Tune is over, when the driver has ended. So between two tasks a worker may go, and
its run has ended well, unless the last call of one of its functions raised. In the midst of a task it is
killed. Ray says neither to the worker; both show where it gets the functions that it calls.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.hooks import Call, Hooks, HooksInstrumentor, Target, around
from tracelet_otel.instrumentation.ray import private
from tracelet_otel.semconv import Status

_guard = Guard("the hook of Ray's tasks")


class _Tasks:
    """The tasks of this worker. Used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._failed: set[str] = set()
        """Functions whose last call raised."""
        self.status: Status | None = None
        """How the run would end now; None in a process that is no worker."""
        self.changed: Callable[[Status], None] = lambda _: None
        self.idle: Callable[[], None] = lambda: None

    @contextmanager
    def running(self, name: str) -> Generator[None]:
        """Around a call of a function."""
        self._note(1)
        try:
            yield
        except SystemExit as error:
            if error.code in (None, 0):  # ray.actor.exit_actor(); else Ray's answer to SIGTERM
                self._note(-1)
            raise
        except BaseException:
            self._note(-1, name, failed=True)
            raise
        self._note(-1, name)

    def _note(self, more: int, name: str = "", *, failed: bool = False) -> None:
        with _guard, self._lock:
            self._running += more
            if name:
                (self._failed.add if failed else self._failed.discard)(name)
            ended: Status = "failed" if self._failed else "finished"
            self.status = "killed" if self._running else ended
            self.changed(self.status)
        if self.status != "killed":
            with _guard:
                self.idle()


_tasks = _Tasks()


def status() -> Status | None:
    """How the run in this worker would end now; None in a process that is no worker of Ray."""
    return _tasks.status


def on_change(changed: Callable[[Status], None], idle: Callable[[], None]) -> None:
    """Has two functions called by the thread of a task.

    Args:
        changed: gets each new :func:`status`; it must be quick.
        idle: called when no task is running any more, before the caller of the last one hears of its end.
    """
    _tasks.changed, _tasks.idle = changed, idle


def _executed(call: Call, *_: Any, **__: Any) -> Any:
    """Around `FunctionActorManager.get_execution_info`."""
    info = call()
    try:
        return info._replace(function=_noted(info.function, str(info.function_name)))
    except Exception:
        with _guard:
            raise
        return info


def _noted(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    async def finished(coroutine: Any) -> Any:
        with _tasks.running(name):
            return await coroutine

    @functools.wraps(function)  # Ray looks at the attribute ``method``
    def noted(*args: Any, **kwargs: Any) -> Any:
        with _tasks.running(name):
            result = function(*args, **kwargs)
        return finished(result) if inspect.iscoroutine(result) else result

    return noted


class RayInstrumentor(HooksInstrumentor):
    """Hooks into Ray's workers."""

    dependencies = ("ray >= 2.9",)
    hooks = Hooks(
        [
            Target(
                f"{private.FUNCTION.module}",
                private.FUNCTION.owner,
                private.FUNCTION.attribute,
                around(_executed),
            )
        ]
    )
