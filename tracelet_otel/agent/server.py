"""The agent's process: a gateway for one run's processes on this machine. It ends when its work is done."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import logging
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from tracelet_otel.agent import last_word
from tracelet_otel.agent.address import SPOOL_PREFIX, Address
from tracelet_otel.agent.endpoints import TrainingProcesses, add_endpoints
from tracelet_otel.backends.names import SPOOLS
from tracelet_otel.delivery.spool.spool import Durability
from tracelet_otel.foundation.importing import say_own_process
from tracelet_otel.foundation.locks import acquire, acquire_folder
from tracelet_otel.foundation.logs import REDACTING, get_logger
from tracelet_otel.gateway.backends import Backend, make_backend
from tracelet_otel.gateway.http_app import App, HttpServer
from tracelet_otel.gateway.intake import Intake
from tracelet_otel.gateway.runs import Runs, status_request
from tracelet_otel.semconv import Status
from tracelet_otel.settings import ConfigurationError

LOOK_S: Final = 0.5
"""Between two checks of the training processes."""
CALL_S: Final = 600.0
"""How long one call to a backend may take: a large upload, the end of a run."""
LAST_CALL_S: Final = 60.0
"""How long a client may take to end once it has everything."""
SIGNAL_S: Final = 25.0
"""How long an agent goes on after SIGTERM. Slurm and Kubernetes kill after 30 s by default."""
PREDECESSOR_S: Final = 30.0
"""How long a new agent waits for the one before to end."""
_MOST_NEIGHBOURS: Final = 100
_log: Final = get_logger("tracelet_otel.agent")


class Agent:
    """Serves on a socket that already listens.

    Raises:
        ConfigurationError: a backend cannot be used, or no folder for the spools is free.
        OSError: the spools cannot be read or written.
    """

    def __init__(self, config: Mapping[str, Any], address: Address) -> None:
        state, self._warning = _writable_state(Path(config["state"]), address.socket.parent)
        self._spools, self._lock = _lock_spools(state / SPOOLS / f"{SPOOL_PREFIX}{address.key}")
        self._processes = TrainingProcesses()
        self._runs = Runs(self._spools / "runs.log", silence=float("inf"))
        self._backends = [
            make_backend(
                name,
                options,
                spools=self._spools,
                state=state,
                runs=self._runs,
                max_queue_bytes=config["max_queue_bytes"],
                max_spool_bytes=config["max_spool_bytes"],
                durability=Durability.PROCESS,  # a crash of the machine ends training, too
            )
            for name, options in config["backends"].items()
        ]
        self._intake = Intake(self._backends, self._runs, media=None)
        self._executor = ThreadPoolExecutor(8, thread_name_prefix="tracelet-intake")
        self._deadline: float | None = None
        self._orphaned: Status | None = None
        """The last word of a process whose end is the end of runs, and which has ended without a message."""
        self._alone_since = 0.0
        """Since when no process needs the agent; 0 while one needs it."""

    def close(self) -> None:
        """Ends the deliveries. What is left stays in the spool."""
        left, last_call = 0.0, LAST_CALL_S
        if self._deadline is not None:
            left = last_call = max(0.0, self._deadline - time.monotonic())
        for backend in self._backends:
            backend.delivery.begin_closing()
        for backend in self._backends:
            if not backend.delivery.finish_closing(left, last_call=last_call) and backend.delivery.queue:
                _log.warning(
                    "%s: %d points and %d records stay in %s: %s",
                    backend.delivery.name,
                    backend.spool.points,
                    backend.spool.records,
                    backend.spool.folder,
                    backend.delivery.last_error,
                )
        self._executor.shutdown()
        if not any(backend.delivery.queue for backend in self._backends):
            shutil.rmtree(self._spools, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty
                self._spools.parent.rmdir()
                self._spools.parent.parent.rmdir()
        self._lock.release()

    async def serve(self, listener: socket.socket) -> None:
        """Serves until no training process needs it and everything is delivered or given up."""
        app = App(self._intake, executor=self._executor, knows=self._processes.knows)
        add_endpoints(app, self._processes, self._backends, self._warning)
        server = HttpServer(app)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._hurry)
        serving = asyncio.create_task(server.serve([listener]))
        try:
            while await loop.run_in_executor(self._executor, self._has_work):
                await asyncio.sleep(LOOK_S)
        finally:
            server.should_exit = True
            await serving
        while await loop.run_in_executor(self._executor, self._has_work) and not self.is_needed:
            await asyncio.sleep(LOOK_S)  # for what was in hand when it stopped to serve

    def _hurry(self) -> None:
        self._deadline = self._deadline or time.monotonic() + SIGNAL_S

    def _has_work(self) -> bool:
        """Does what is due. Returns whether there is a reason to stay."""
        self._intake.tick()
        self._look_after_runs()
        if self.is_overdue:
            return False
        now, is_needed = time.monotonic(), self.is_needed
        if is_needed == bool(self._alone_since):
            self._alone_since = 0.0 if is_needed else now
            for backend in self._backends:  # once no process is left, this is the backends' last chance
                backend.delivery.set_waited_for(not is_needed)
        return is_needed or any(
            backend.delivery.queue and self._is_worth_waiting(backend, now) for backend in self._backends
        )

    @property
    def is_overdue(self) -> bool:
        """Whether its time after SIGTERM is over."""
        return self._deadline is not None and time.monotonic() > self._deadline

    @property
    def is_needed(self) -> bool:
        """Whether a training process is present, or may still come."""
        return self._processes.is_needed()

    def _look_after_runs(self) -> None:
        for process in self._processes.lost():
            word = last_word.take(Path(process.last_word)) if process.last_word else "killed"
            if process.ends_runs:
                self._orphaned = word
                if not self._processes.has_owner():
                    self._end_runs(word)  # at once, so that trackers show it; a rank's value opens them again
        if self._processes.has_owner():
            self._orphaned = None  # torchrun has started it again
        if self._orphaned and not self.is_needed:
            # At each check: a late process or request may have opened a run again.
            self._end_runs(self._orphaned)

    def _is_worth_waiting(self, backend: Backend, now: float) -> bool:
        link = backend.delivery.link
        moved = max(link.progress, self._alone_since)
        return now - moved < self._processes.patience or 0 < link.busy_for < CALL_S

    def _end_runs(self, status: Status) -> None:
        """Ends the open runs: the process that ends them was killed or has crashed."""
        for info in self._runs.open():
            _log.warning("run %s: its process has ended without its status", info.id)
            self._intake.take("logs", status_request(info, status, time.time_ns(), inferred=True))


def main() -> None:
    """Runs an agent, with its configuration from standard input."""
    config: dict[str, Any] = json.load(sys.stdin.buffer)
    sys.path += [path for path in config["sys_path"] if path not in sys.path]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(REDACTING)  # also what trackers' clients log
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    say_own_process()
    faulthandler.enable()  # the log says where it was when it crashed, or hung and was sent SIGABRT
    key, *paths = config["address"]
    address = Address(key, *map(Path, paths))
    with _sole_agent(address) as is_sole:
        if not is_sole:
            return
        agent: Agent | None = None
        try:
            while agent is None or agent.is_needed:  # a process may come while the agent is about to end
                with _listen(address.socket) as listener:  # before slow imports, so that training finds it
                    agent = agent or Agent(config, address)
                    asyncio.run(agent.serve(listener))
                if agent.is_overdue:
                    break
        finally:
            address.socket.unlink(missing_ok=True)
            if agent is not None:
                agent.close()
    with contextlib.suppress(OSError):
        if not address.log.stat().st_size:
            address.log.unlink()


@contextlib.contextmanager
def _sole_agent(address: Address) -> Generator[bool]:
    """Holds the lock of an address; whether this process is its agent. False where another agent serves."""
    end = time.monotonic() + PREDECESSOR_S
    while (lock := acquire(address.lock)) is None:
        if time.monotonic() > end or _is_served(address.socket):
            yield False
            return
        time.sleep(0.05)
    try:
        yield True
    finally:
        address.lock.unlink(missing_ok=True)  # before another agent can have the lock
        lock.release()


def _is_served(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
        tried.settimeout(1.0)
        tried.connect(str(path))
        return True
    return False


def _listen(path: Path) -> socket.socket:
    """A socket that listens; the file that a killed agent left is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _lock_spools(folder: Path) -> tuple[Path, FileLock]:
    """The folder and its lock, or a folder beside it where another agent has this one.

    Two machines may share the state folder, or two processes whose temporary folders differ.
    """
    for number in range(1, _MOST_NEIGHBOURS):
        neighbour = folder if number == 1 else folder.with_name(f"{folder.name}.{number}")
        if (lock := acquire_folder(neighbour)) is not None:
            return neighbour, lock
    raise ConfigurationError(f"{_MOST_NEIGHBOURS} agents use {folder} and the folders beside it")


def _writable_state(state: Path, temporary: Path) -> tuple[Path, str]:
    """The state folder; if it cannot be written to, a temporary one and a warning that says why."""
    folder = state / SPOOLS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return state, ""
    except OSError as error:
        warning = f"{folder} cannot be written to, {temporary / 'state'} takes its place: {error}"
        _log.warning("%s", warning)
        return temporary / "state", warning
