"""A ``wandb-core`` process of our own, which does W&B's work, and the connection to it.

It keeps our use of W&B's client apart from the user's own in the same process. ``wandb.init`` would do more
than open a run: it starts one ``wandb-core`` process for all of this process and names it in ``os.environ``,
wraps ``sys.exit`` and ``sys.excepthook``, leaves an ``atexit`` hook that waits without end, logs the whole
process in, settles W&B's settings so that variables set later are ignored, and makes its run what the user's
next ``wandb.init()`` returns. So its steps are taken one by one, with a ``_WandbSetup`` (W&B's state of a
process) and a ``wandb-core`` of our own. W&B's code finds that state by ``wandb_setup.singleton()``, which
for the calling thread is ours while a call of ours is under way, and the user's otherwise.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any, Final

from tracelet_otel.foundation.errors import DeliveryError, PermanentError
from tracelet_otel_exporters.shared.client_errors import ClientErrors
from tracelet_otel_exporters.wandb import private

CALL_SECONDS: Final = 10.0
"""How long a call to ``wandb-core``, on this machine, may take."""
EXIT_SECONDS: Final = 5.0
"""How long ``wandb-core`` may take to end when it is asked to."""

_PERMANENT_TEXTS: Final = ("401", "403", "permission denied", "unauthorized", "returned error 4")


class _Thread(threading.local):
    setup: Any = None
    """Our state of the process, while a call of ours is under way."""


_thread: Final = _Thread()
_lock: Final = threading.RLock()
_replaced: Final = contextlib.ExitStack()
_calls = 0


class _TelemetryOff:
    """Stands in for W&B's switch that turns its telemetry off: off in our calls, else as it was."""

    def __init__(self, users: Any) -> None:
        self._users = users

    def is_set(self) -> bool:
        return _thread.setup is not None or self._users.is_set()

    def set(self) -> None:
        self._users.set()


@contextlib.contextmanager
def _our_setup(setup: Any) -> Generator[None]:
    """W&B's code that this thread calls meanwhile works on ``setup``, without telemetry."""
    global _calls
    before = _thread.setup
    with _lock:
        if _calls == 0:
            users = private.SINGLETON.get()
            _replaced.enter_context(private.SINGLETON.replaced(lambda: _thread.setup or users()))
            switch = _TelemetryOff(private.TELEMETRY_OFF.get())
            _replaced.enter_context(private.TELEMETRY_OFF.replaced(switch))
        _calls += 1
    _thread.setup = setup
    try:
        yield
    finally:
        _thread.setup = before
        with _lock:
            _calls -= 1
            if _calls == 0:
                _replaced.close()


class Core:
    """A ``wandb-core`` process, the connection to it, and W&B's state of the process, all of our own.

    Args:
        folder: the folder that holds the folder ``wandb``, unless ``WANDB_DIR`` names one.

    Raises:
        TransientError: the process does not start.
        PermanentError: W&B is not installed, or is not the version that this knows.
    """

    def __init__(self, folder: str) -> None:
        with errors():
            with private.quiet_terminal():
                self.setup: Any = private.SETUP.get()(pid=os.getpid())
                self.settings: Any = self.setup.settings
            if not os.environ.get("WANDB_DIR"):
                self.settings.root_dir = folder
            self._asyncer: Any = self.setup.asyncer
            try:
                private.SETUP_CONNECTION.get(self.setup)  # looked for before there is a process
                # bool() is False: crash reports would go to a third party
                with self.calls(), private.CRASH_REPORTS.replaced(bool):
                    process = private.START_SERVICE.get()(self.settings)
                    self._client: Any = process.token.connect(asyncer=self._asyncer)
                self._service: Any = private.SERVICE_CONNECTION.get()(self._asyncer, self._client, process)
                private.SETUP_CONNECTION.set(self._service, self.setup)
            except BaseException:
                self._asyncer.join()
                raise
        self._process: subprocess.Popen[bytes] | None = private.PROCESS.get(process)
        self.is_closed = False

    @property
    def is_alive(self) -> bool:
        """Whether ``wandb-core`` still runs."""
        return self._process is None or self._process.poll() is None

    @contextlib.contextmanager
    def calls(self) -> Generator[None]:
        """Calls to W&B: on our state, without telemetry, errors as delivery errors."""
        with _our_setup(self.setup), errors():
            yield

    def publish(self, requests: Iterable[Any]) -> None:
        """Hands ``ServerRequest`` messages over, many at once; each is serialized before the next is made.

        ``Run.log`` sends each row through a thread of W&B's and waits, which is half of its time.

        Raises:
            TransientError: ``wandb-core`` is gone. One that is only slow has them in its queue.
        """
        writer = private.WRITER.get(self._client)
        serialized = [request.SerializeToString() for request in requests]

        async def write() -> None:
            if writer is None:
                for data in serialized:
                    await self._client.publish(private.SERVER_REQUEST.get().FromString(data))
                return
            # as ServiceClient puts a message on the socket: "W", its length, itself
            writer.write(b"".join(b"W" + len(data).to_bytes(4, "little") + data for data in serialized))
            await writer.drain()

        with errors():
            if not self.is_alive:
                raise ConnectionError("wandb-core has ended")
            with contextlib.suppress(TimeoutError, concurrent.futures.TimeoutError):
                self._start(write).result(CALL_SECONDS)

    def ask(self, request: Any, seconds: float | None = None) -> concurrent.futures.Future[Any]:
        """Sends a ``ServerRequest``; returns its answer to come, given up after ``seconds`` unless None."""

        async def ask() -> Any:
            return await (await self._client.deliver(request)).wait_async(timeout=seconds)

        return self._start(ask)

    def settle(self, request: Any) -> None:
        """Waits until this and all that was published before is handled; not longer than a call may take."""
        with errors(), contextlib.suppress(TimeoutError, concurrent.futures.TimeoutError):
            self.ask(request, CALL_SECONDS).result()

    def close(self) -> None:
        """Ends ``wandb-core`` and the connection's thread; what they have not finished is given up."""
        self.is_closed = True
        with contextlib.suppress(Exception):
            request = private.SERVER_REQUEST.get()()
            request.inform_teardown.exit_code = 0
            self.publish([request])
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_SECONDS)
            if self.is_alive:
                self._process.kill()
                self._process.wait()
        with contextlib.suppress(Exception):
            if (finalizer := private.FINALIZER.get(self._service)) is not None:
                finalizer.close()
        with contextlib.suppress(Exception):
            self._start(self._client.close).result(EXIT_SECONDS)
        self._asyncer.join()

    def _start(self, work: Callable[[], Awaitable[Any]]) -> concurrent.futures.Future[Any]:
        """Starts work in the connection's thread."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        async def run() -> None:
            try:
                future.set_result(await work())
            except asyncio.CancelledError:
                future.cancel()
                raise
            except Exception as error:
                future.set_exception(error)

        self._asyncer.run_soon(run, daemon=True)
        return future


def _own_error(error: Exception) -> DeliveryError | None:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, (ImportError, AttributeError)):
        return PermanentError(f"this version of W&B works differently: {text}")
    if any(part in text.lower() for part in _PERMANENT_TEXTS):
        return PermanentError(text)
    return None


_MAY_PASS: Final = (
    *("CommError", "MailboxClosed", "HandleAbandoned", "BrokenPipe", "ServicePoll"),
    *("AlreadyJoined", "RunCancelled", "ServiceStart"),
)
errors: Final = ClientErrors("W&B", "wandb", _MAY_PASS, _own_error)
