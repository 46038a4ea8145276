"""Recorders that stand in for a real one: before a session starts again, on a silent rank, at a signal."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tracelet_otel.recording import in_use
from tracelet_otel.recording.logged import LoggedEvent, LoggedPoint
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.recording.run import Run, RunScope


class _RestartingScope(RunScope):
    """Starts the session when it is first asked for a run, and answers for that session's."""

    def __init__(self, restart: Callable[[], None]) -> None:
        self._restart = restart
        self._lock = threading.Lock()

    def _restarted(self) -> RunScope | None:
        with self._lock:
            if isinstance(in_use.current(), RestartingRecorder):
                self._restart()
        recorder = in_use.current()
        return recorder.scope if recorder is not None else None

    def current(self) -> Run:
        scope = self._restarted()
        return scope.current() if scope is not None else Run()

    def entered(self) -> Run | None:
        scope = self._restarted()
        return scope.entered() if scope is not None else None


class RestartingRecorder(Recorder):
    """Starts a session with the first value, and hands that to the recorder that the session installs.

    Args:
        restart: starts the session, which installs its recorder.
    """

    def __init__(self, restart: Callable[[], None]) -> None:
        self.scope: RunScope = _RestartingScope(restart)

    def scalar(self, point: LoggedPoint) -> None:
        """Records one point with the recorder that was installed."""
        if (recorder := self._installed()) is not None:
            recorder.scalar(point)

    def event(self, event: LoggedEvent) -> None:
        """Records one event with the recorder that was installed."""
        if (recorder := self._installed()) is not None:
            recorder.event(event)

    def _installed(self) -> Recorder | None:
        self.scope.current()
        recorder = in_use.current()
        return recorder if recorder is not self else None


class RunOpener(Recorder):
    """Drops everything, but opens the default run with the first value: the machine is measured from then on.

    For a rank whose values are not recorded and which is the first one of its machine.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.scope = recorder.scope
        self.media = recorder.media

    def scalar(self, point: LoggedPoint) -> None:
        """Drops one point."""
        self._open(point[-1])

    def event(self, event: LoggedEvent) -> None:
        """Drops one event."""
        self._open(event.run)

    def _open(self, run: Run | None) -> None:
        run = run or self.scope.current()
        if not run.opened and run is self.scope.default:
            run.open()


class _EndlessScope(RunScope):
    """Never says which run is current."""

    def __init__(self) -> None:
        pass

    def current(self) -> Run:
        threading.Event().wait()
        raise AssertionError

    entered = current


class HoldingRecorder(Recorder):
    """Holds every thread that logs, for a process that is about to die by a signal.

    What these threads would still log is lost anyway, and a loop that goes on would keep the delivery from
    finishing.
    """

    def __init__(self) -> None:
        self.scope: RunScope = _EndlessScope()

    def scalar(self, point: LoggedPoint) -> None:
        """Holds the thread."""
        self.scope.current()

    def event(self, event: LoggedEvent) -> None:
        """Holds the thread."""
        self.scope.current()
