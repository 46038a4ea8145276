"""W&B's client, apart from the user's own use of it in the same process.

``wandb.init`` would do more than open a run: it starts one ``wandb-core`` process for all of this process and
names it in ``os.environ``, wraps ``sys.exit`` and ``sys.excepthook``, leaves an ``atexit`` hook that waits
without end, logs the whole process in, settles W&B's settings so that variables set later are ignored, and
makes its run what the user's next ``wandb.init()`` returns. So the steps of ``wandb.init`` are taken here
one by one, with a ``_WandbSetup`` (W&B's state of a process) and a ``wandb-core`` of our own. W&B's code
finds that state by ``wandb_setup.singleton()``, which for the calling thread is ours while a call of ours
is under way, and the user's otherwise.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from typing import Any, Final

from tracelet_otel.foundation.errors import DeliveryError, PermanentError
from tracelet_otel_exporters.shared.client_errors import ClientErrors

CALL_SECONDS: Final = 10.0
"""How long a call to ``wandb-core``, on this machine, may take."""
EXIT_SECONDS: Final = 5.0
"""How long ``wandb-core`` may take to end after it was told to."""

_ours = threading.local()
_seams = threading.RLock()
_users = 0
_TERM_STATE: Final = ("_silent", "_show_info", "_show_warnings", "_show_errors", "_logger")
_TRANSIENT_WORDS: Final = (
    *("CommError", "MailboxClosed", "HandleAbandoned", "BrokenPipe", "ServicePoll"),
    *("AlreadyJoined", "RunCancelled", "ServiceStart"),
)
_PERMANENT_TEXTS: Final = ("401", "403", "permission denied", "unauthorized", "returned error 4")


class Session:
    """A ``wandb-core`` process, the connection to it, and W&B's state of the process, all of our own.

    Args:
        folder: of the folder ``wandb``, unless ``WANDB_DIR`` says so.

    Raises:
        TransientError: the process does not start.
        PermanentError: W&B is not installed, or is not the version that this knows.
    """

    def __init__(self, folder: str) -> None:
        with errors():
            from wandb.sdk import wandb_setup
            from wandb.sdk.lib.service import service_connection, service_process

            with _quiet_terminal():
                self.setup: Any = wandb_setup._WandbSetup(pid=os.getpid())  # pyright: ignore[reportPrivateUsage]
                self.settings: Any = self.setup.settings
            if not os.environ.get("WANDB_DIR"):
                self.settings.root_dir = folder
            with self.calls():
                reports: Any = service_process
                reporting = reports.error_reporting_enabled
                try:
                    reports.error_reporting_enabled = bool  # False: crash reports go to a third party
                    process = service_process.start(self.settings)
                    client = process.token.connect(asyncer=self.setup.asyncer)
                except BaseException:
                    self.setup.asyncer.join()
                    raise
                finally:
                    reports.error_reporting_enabled = reporting
        self._process: Any = process
        self._popen: subprocess.Popen[bytes] = self._process._process
        self._client: Any = client
        self.service: Any = service_connection.ServiceConnection(self.setup.asyncer, client, process)
        self.setup._connection = self.service
        self.is_closed = False

    @property
    def is_alive(self) -> bool:
        """Whether ``wandb-core`` still runs."""
        return self._popen.poll() is None

    @contextlib.contextmanager
    def calls(self) -> Generator[None]:
        """Calls of ours to W&B: our state for this thread, no telemetry, errors as delivery errors."""
        before = getattr(_ours, "setup", None)
        with _seamed():
            _ours.setup = self.setup
            try:
                with errors():
                    yield
            finally:
                _ours.setup = before

    def publish(self, requests: Sequence[bytes]) -> None:
        """Hands serialized ``ServerRequest`` messages over, many at once.

        ``Run.log`` sends each row through a thread of W&B's and waits, which is half of its time.

        Raises:
            TransientError: ``wandb-core`` is gone. One that is only slow has them in its queue.
        """
        writer = self._client._writer

        async def write() -> None:
            writer.write(b"".join(requests))
            await writer.drain()

        self._run(write)

    def confirm(self, interface: Any) -> None:
        """Waits until everything that was published before is handled; not longer than a call may take."""
        with self.calls(), contextlib.suppress(TimeoutError):
            interface.deliver_status().wait_or(timeout=CALL_SECONDS)

    def awaited(self, handle: Any) -> concurrent.futures.Future[Any]:
        """The answer to come; W&B's own ``wait_or`` gives it up when the time is over."""
        return asyncio.run_coroutine_threadsafe(handle.wait_async(timeout=None), self.setup.asyncer._loop)

    def _run(self, work: Any) -> None:
        with errors():
            if not self.is_alive:
                raise ConnectionError(f"wandb-core ended with {self._popen.returncode}")
            future = asyncio.run_coroutine_threadsafe(work(), self.setup.asyncer._loop)
            with contextlib.suppress(TimeoutError, concurrent.futures.TimeoutError):
                future.result(CALL_SECONDS)

    def close(self) -> None:
        """Ends ``wandb-core`` and the connection's thread; what they have not finished is given up."""
        self.is_closed = True
        with contextlib.suppress(Exception):
            if self.is_alive:
                request = server_messages().ServerRequest()
                request.inform_teardown.exit_code = 0
                self.publish([framed(request)])
        with contextlib.suppress(Exception):
            self._popen.wait(EXIT_SECONDS)
        if self.is_alive:
            self._popen.kill()
            self._popen.wait()

        async def disconnect() -> None:
            with contextlib.suppress(OSError):
                await self._client.close()

        with contextlib.suppress(Exception):
            self.service._finalizer.close()
        with contextlib.suppress(Exception):
            self._runs_out(disconnect)
        self.setup.asyncer.join()

    def _runs_out(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work(), self.setup.asyncer._loop).result(EXIT_SECONDS)


def server_messages() -> Any:
    """W&B's messages to ``wandb-core``; they have no types."""
    return importlib.import_module("wandb.proto.wandb_server_pb2")


def run_messages() -> Any:
    """W&B's messages about a run."""
    return importlib.import_module("wandb.proto.wandb_internal_pb2")


def framed(request: Any) -> bytes:
    """A message as ``ServiceClient`` puts it on the socket: ``W``, its length, itself."""
    data = request.SerializeToString()
    return b"W" + len(data).to_bytes(4, "little") + data


def _own_error(error: Exception) -> DeliveryError | None:
    """The delivery error for an exception of which only W&B's text tells whether it may pass."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, (ImportError, AttributeError)):
        return PermanentError(f"this version of W&B works differently: {text}")
    return PermanentError(text) if any(part in text.lower() for part in _PERMANENT_TEXTS) else None


errors: Final = ClientErrors("W&B", "wandb", _TRANSIENT_WORDS, _own_error)
"""``with errors():`` raises what W&B raises as delivery errors."""


class _Telemetry:
    """Stands in for W&B's switch that turns its telemetry off: off in our calls, else as it was."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def is_set(self) -> bool:
        return getattr(_ours, "setup", None) is not None or self.original.is_set()

    def set(self) -> None:
        self.original.set()


@contextlib.contextmanager
def _seamed() -> Generator[None]:
    """Puts our two hooks into W&B while any call of ours is under way."""
    global _users
    from wandb.analytics.opentelemetry import opentelemetry_proxy
    from wandb.sdk import wandb_setup

    setup_module: Any = wandb_setup
    telemetry_module: Any = opentelemetry_proxy
    with _seams:
        _users += 1
        if _users == 1:
            _Seams.singleton = setup_module.singleton
            setup_module.singleton = _singleton
            telemetry_module._disabled = _Telemetry(telemetry_module._disabled)
    try:
        yield
    finally:
        with _seams:
            _users -= 1
            if _users == 0:
                setup_module.singleton = _Seams.singleton
                telemetry_module._disabled = telemetry_module._disabled.original


class _Seams:
    singleton: Any = None


def _singleton() -> Any:
    setup = getattr(_ours, "setup", None)
    return _Seams.singleton() if setup is None else setup


@contextlib.contextmanager
def _quiet_terminal() -> Generator[None]:
    """W&B prints nothing, and loading its settings does not change what it prints afterwards."""
    from wandb.errors import term

    before = {name: getattr(term, name) for name in _TERM_STATE}
    term._silent = True  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(term, name, value)


def init(session: Session, settings: Any, config: dict[str, Any]) -> Any:
    """Opens a run: what ``wandb.init`` does, without its part that is about the whole process.

    Args:
        session: whose ``wandb-core`` the run is in.
        settings: ``wandb.Settings`` of this run.
        config: the run's first config.

    Returns:
        A ``wandb.Run``, which nothing else in the process knows of.
    """
    from wandb.sdk import wandb_init
    from wandb.sdk.lib import import_hooks, printer, telemetry, wb_logging

    hooks: Any = import_hooks
    first_hook = not hooks._post_import_hooks_init
    with session.calls(), _quiet_terminal():
        gathered: Any = telemetry
        steps: Any = wandb_init
        creation = steps._WandbInit(session.setup, gathered.TelemetryRecord())
        run_settings, _ = creation.make_run_settings(settings)
        creation.set_run_id(run_settings)
        steps.try_create_root_dir(run_settings)
        creation.set_sync_dir_suffix(run_settings)
        with wb_logging.log_to_run(run_settings.run_id):
            parts = creation.make_run_config(settings=run_settings, config=config)
            with creation.setup_run_log_directory(run_settings):
                run: Any = creation.init(run_settings, parts, printer.new_printer(run_settings))
        session.setup.remove_active_run(run)
        run._unregister_telemetry_import_hooks(run_settings.run_id)
        if run._run_status_checker is not None:  # it would print, and interrupt training on "stop run"
            run._run_status_checker.stop()
    if first_hook:
        with hooks._post_import_hooks_lock:
            if not hooks._post_import_hooks:
                ours = hooks.ImportHookFinder
                sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, ours)]
                hooks._post_import_hooks_init = False
    return run


def forget(session: Session, run: Any) -> None:
    """Ends W&B's side of a run that has finished: its log file, its stream in ``wandb-core``."""
    with session.calls():
        run._is_finished = True
        if run._run_status_checker is not None:
            run._run_status_checker._stop_checker.stop_soon()
        run._interface.join()
        for hook in run._teardown_hooks:
            hook.call()
        run._teardown_hooks = []
        session.service.inform_finish(run_id=run._settings.run_id)
