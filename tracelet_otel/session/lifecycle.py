"""How the process ends: normal end, exception, exit code, SIGTERM, SIGINT, fork.

Nothing of the user's is replaced for good: signal handlers are chained, exit codes stay, exceptions
pass through. Nothing is flushed inside a signal handler, because the thread it interrupts may hold
the very lock that flushing needs: a watcher thread does it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from tracelet_otel import recording
from tracelet_otel.delivery.summary import say
from tracelet_otel.foundation.guard import Guard
from tracelet_otel.instrumentation.ray import tasks
from tracelet_otel.recording.stand_ins import HoldingRecorder
from tracelet_otel.semconv import Status
from tracelet_otel.session.ending import interactive, keep_interrupted, last_error

_DIE = 0xFF
"""Byte that our handler writes to have the watcher end the process."""
_SYNC = 0xFE
"""Byte that :meth:`Lifecycle.status` writes to know that the watcher has read all that came before it."""
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HANDLER_PATIENCE_S = 1.0
"""How long the main thread may take to run a signal's handler before the watcher acts without it."""


class Lifecycle:
    """Watches how this process ends.

    Args:
        on_end: called once with the status, from the main thread at exit or from the watcher thread
            after SIGTERM; delivers everything before it returns.
        on_signal: called from the watcher thread when a signal that ends processes arrived; must not wait.
    """

    def __init__(self, on_end: Callable[[Status], None], on_signal: Callable[[], None]) -> None:
        global _current
        self._on_end = on_end
        self._on_signal = on_signal
        self._pid = os.getpid()
        self._ending = threading.Lock()
        self._ended = False
        self.uninstalled = False
        self._signalled = False
        self._synced = threading.Event()
        self._dying = threading.Event()
        self._exit_code: object = None
        self._error_before = last_error()
        self._previous: Any = None
        self._handler: Any = None
        self._read = self._write = -1
        self._mask: set[signal.Signals] | set[int] | None = None
        self._watcher: threading.Thread | None = None
        self._exit_wraps: list[tuple[Any, str, Any, Any]] = []
        atexit.register(self.at_exit)
        self._wrap_exit()
        if threading.current_thread() is threading.main_thread() and sys.platform != "win32":
            self._watch_signals()
        _current = self

    def status(self) -> Status:
        """How the process is ending, as far as it shows now."""
        if self._handler is not None and threading.current_thread() is not self._watcher:
            with contextlib.suppress(OSError):
                os.write(self._write, bytes([_SYNC]))
                self._synced.wait(1)
        task = tasks.status() or "killed"  # Ray stops a worker by a signal, also one that has done its work
        if self._signalled or task == "failed":
            return task
        error = last_error()
        if error is not None and error is not self._error_before and not interactive():
            return "killed" if isinstance(error, KeyboardInterrupt) else "failed"
        return "finished" if self._exit_code in (None, 0, False) else "failed"

    def uninstall(self) -> None:
        """Takes back everything that was installed; the process's end is not watched any more."""
        self.uninstalled = True
        atexit.unregister(self.at_exit)
        for owner, name, original, wrapper in self._exit_wraps:
            if getattr(owner, name) is wrapper:  # else another wrapper was put around ours, which stays below
                setattr(owner, name, original)
        self._exit_wraps.clear()
        if self._handler is not None and threading.current_thread() is threading.main_thread():
            self._restore_signals()

    def at_exit(self, exit_code: int | None = None) -> None:
        """The process ends now: ends the session, or waits while a signal does."""
        if os.getpid() != self._pid:
            return
        if exit_code is not None:
            self._exit_code = exit_code
        status = self.status()
        uninterrupted(lambda: self.end(status))
        if isinstance(last_error(), KeyboardInterrupt) and not interactive():
            keep_interrupted()
        if self._dying.is_set() and self._watcher is not None:
            self._watcher.join()  # it is about to end the process by the signal it got

    def end(self, status: Status) -> None:
        """Calls ``on_end``, once; a second caller waits for the first."""
        with self._ending:
            if not self._ended:
                self._ended = True
                with Guard("the end of the run"):
                    self._on_end(status)

    # -- exit codes -----------------------------------------------------------------------------

    def _wrap_exit(self) -> None:
        # Python does not tell which exit code sys.exit() asked for. This is how it is known. Plain
        # functions under the original's name, so that they can be pickled as the original can.
        owners: list[tuple[Any, str]] = [(sys, "exit")]
        # The class of exit() and quit(), in a private module of CPython. Without it their code is not known.
        if (quitter := getattr(sys.modules.get("_sitebuiltins"), "Quitter", None)) is not None:
            owners.append((quitter, "__call__"))
        for owner, name in owners:
            original = getattr(owner, name)
            wrapper = self._noting(original, is_method=owner is not sys)
            setattr(owner, name, wrapper)
            self._exit_wraps.append((owner, name, original, wrapper))

    def _noting(self, original: Any, *, is_method: bool) -> Any:
        @functools.wraps(original)
        def exit(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                codes = (*args[is_method:], *kwargs.values())
                self._exit_code = codes[0] if codes else None
            return original(*args, **kwargs)

        return exit

    # -- signals --------------------------------------------------------------------------------

    def _watch_signals(self) -> None:
        self._previous = signal.getsignal(signal.SIGTERM)
        if self._previous is None or self._previous is signal.SIG_IGN:
            return  # not ours to change: installed from C, or ignored on purpose
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._watcher = threading.Thread(target=self._watch, name="tracelet-signals", daemon=True)
        self._watcher.start()  # first: a handler without it would hold the process back
        self._handler = self._on_sigterm
        signal.signal(signal.SIGTERM, self._handler)
        # Tells of signals whose Python handler the user replaces after us, and at once, even while the
        # main thread is inside a long C call.
        before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        self._signalled = True
        if callable(self._previous):
            self._previous(signum, frame)
        elif self.uninstalled:  # left behind, below another handler of ours: as if it were not there
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        elif signal.getsignal(signum) == self._handler:
            # The default action: the watcher delivers, then this process dies by this very signal.
            signal.signal(signum, signal.SIG_DFL)
            self._dying.set()
            with contextlib.suppress(OSError):
                os.write(self._write, bytes([_DIE]))
        # else a handler that was installed after ours called it: what happens now is that one's choice.

    def _watch(self) -> None:
        while True:
            try:
                data = os.read(self._read, 64)
            except OSError:
                return
            if not data:
                os.close(self._read)
                return
            if _DIE in data:
                self._die()
            if any(number in data for number in _ENDING_SIGNALS):
                self._signalled = not interactive()
                self._on_signal()
            if _SYNC in data:
                self._synced.set()
            # Without us SIGTERM would have ended a process whose main thread is inside a long C call.
            waits = signal.SIGTERM in data and self._previous is signal.SIG_DFL and not self.uninstalled
            if waits and signal.getsignal(signal.SIGTERM) == self._handler:
                self._dying.wait(_HANDLER_PATIENCE_S)
                if not self._dying.is_set() and signal.getsignal(signal.SIGTERM) == self._handler:
                    self._dying.set()
                    self._die()

    def _die(self) -> None:
        recording.install(HoldingRecorder())
        self.end("killed")
        # signal.signal() is for the main thread alone; the C library's is for any.
        ctypes.CDLL(None).signal(int(signal.SIGTERM), ctypes.c_void_p(0))
        os.kill(os.getpid(), signal.SIGTERM)

    def _restore_signals(self) -> None:
        if signal.getsignal(signal.SIGTERM) == self._handler:
            signal.signal(signal.SIGTERM, self._previous)
        self._release_wakeup()
        self._handler = None
        os.close(self._write)  # the watcher reads the end of the pipe and returns

    def _release_wakeup(self) -> None:
        current = signal.set_wakeup_fd(-1)
        if current not in (-1, self._write):
            signal.set_wakeup_fd(current)

    # -- fork -----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Holds SIGTERM back: one that reaches the child before its handler is reset would be lost."""
        if self._handler is not None:
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def after_fork_in_parent(self) -> None:
        """Lets SIGTERM through again."""
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._mask = None

    def after_fork_in_child(self) -> None:
        """Gives the child the signals that it would have without us."""
        # The pipe is shared with the parent: a signal to the child would look like one to the parent.
        if self._handler is not None:
            with contextlib.suppress(ValueError, OSError):
                self._release_wakeup()
                if signal.getsignal(signal.SIGTERM) == self._handler:
                    signal.signal(signal.SIGTERM, self._previous)
            self._handler = None
        self.after_fork_in_parent()


def uninterrupted(work: Callable[[], None]) -> None:
    """Does ``work``, which may take long; one Ctrl-C is answered with a line, the next ends the wait.

    In a thread, so that an interrupt finds nothing half done.
    """
    if threading.current_thread() is not threading.main_thread():
        work()
        return
    done = threading.Event()

    def run() -> None:
        try:
            work()
        finally:
            done.set()

    try:
        threading.Thread(target=run, name="tracelet-end", daemon=True).start()
    except RuntimeError:  # too late in the interpreter's end to start a thread
        work()
        return
    asked = False
    while True:
        try:
            done.wait()
            return
        except KeyboardInterrupt:
            if asked:
                say("given up: what was not delivered yet is dropped")
                return
            asked = True
            say("still delivering; interrupt again to give up")


def finish(exit_code: int | None = None) -> None:
    """Ends the session now, as the process ends with this code: None if it is not known."""
    if _current is not None and not _current.uninstalled:
        _current.at_exit(exit_code)


_current: Lifecycle | None = None

if hasattr(os, "register_at_fork"):
    # Once: what is registered here can never be taken back.
    os.register_at_fork(
        before=lambda: _current.before_fork() if _current else None,
        after_in_parent=lambda: _current.after_fork_in_parent() if _current else None,
        after_in_child=lambda: _current.after_fork_in_child() if _current else None,
    )
