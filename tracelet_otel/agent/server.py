"""The agent's process: a gateway for one run's processes on this machine, that ends when its work is done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import uvicorn

from tracelet_otel.agent import places
from tracelet_otel.agent.address import SPOOL_PREFIX
from tracelet_otel.agent.desk import Desk
from tracelet_otel.agent.lock import Lock
from tracelet_otel.agent.sources import Sources
from tracelet_otel.backends import registry as backends
from tracelet_otel.delivery.spool.spool import Durability
from tracelet_otel.foundation.logs import REDACTING, get_logger
from tracelet_otel.gateway.asgi_server import Server
from tracelet_otel.gateway.http_app import App
from tracelet_otel.gateway.intake import Intake
from tracelet_otel.gateway.outlets import Outlet, make_outlet
from tracelet_otel.gateway.runs import Runs, status_request

KEEP_ALIVE_S: Final = 3600
"""How long a connection may be idle: a script that logs once an epoch keeps its own."""
LOOK_S: Final = 0.5
"""Between two looks at the training processes."""
CALL_S: Final = 600.0
"""How long one call to a backend may take: a large upload, the end of a run."""
LAST_CALL_S: Final = 60.0
"""How long a client may take to end once it has everything."""
SIGNAL_S: Final = 25.0
"""What is left to an agent after SIGTERM. Slurm and Kubernetes kill after 30 s by default."""
_log: Final = get_logger("tracelet_otel.agent")


class Agent:
    """Serves on a socket that listens already.

    Args:
        config: what :func:`tracelet_otel.agent.launch.launch` was given.
        key: the agent's.

    Raises:
        ConfigurationError: another agent uses the spools, or a backend cannot be used.
        OSError: the spools cannot be read or written.
    """

    def __init__(self, config: Mapping[str, Any], key: str) -> None:
        state, self._warning = places.writable(
            Path(config["state"]), Path(config["address"]["socket"]).parent
        )
        self._spools = state / backends.SPOOLS / f"{SPOOL_PREFIX}{key}"
        # Two machines may share the folder, or two processes with other temporary folders.
        self._spools, self._held = places.held(self._spools)
        self._sources = Sources()
        self._runs = Runs(self._spools / "runs.log", silence=float("inf"))
        self._outlets: list[Outlet] = []
        for name, options in config["backends"].items():
            self._outlets.append(
                make_outlet(
                    name,
                    options,
                    spools=self._spools,
                    state=state,
                    runs=self._runs,
                    max_queue_bytes=config["max_queue_bytes"],
                    max_spool_bytes=config["max_spool_bytes"],
                    durability=Durability.PROCESS,
                )
            )
        # Without fsync: what a process has written survives it; and training's machine going down ends all.
        self._intake = Intake(self._outlets, self._runs, fsync=False, drops=True, media=None)
        self._executor = ThreadPoolExecutor(8, thread_name_prefix="tracelet-intake")
        self._deadline: float | None = None
        self._orphaned = False
        """Whether a process that would have ended runs has gone without a word."""
        self._alone_since = 0.0
        """Since when no process needs the agent; 0 while one does."""

    def serve(self, listener: socket.socket) -> None:
        """Serves until no training process needs it and everything is delivered, or cannot be."""
        asyncio.run(self._serve(listener))

    def close(self) -> None:
        """Ends the deliveries; what is left stays in the spool."""
        left: float = 0.0 if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        last_call = LAST_CALL_S if self._deadline is None else left
        for outlet in self._outlets:
            outlet.delivery.begin_closing()
        for outlet in self._outlets:
            if not outlet.delivery.finish_closing(left, last_call=last_call) and outlet.delivery.queue:
                _log.warning(
                    "%s: %d points and %d records stay in %s: %s",
                    outlet.delivery.name,
                    outlet.spool.points,
                    outlet.spool.records,
                    outlet.spool.folder,
                    outlet.delivery.last_error,
                )
        self._executor.shutdown()
        if not any(outlet.delivery.queue for outlet in self._outlets):
            shutil.rmtree(self._spools, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty
                self._spools.parent.rmdir()
                self._spools.parent.parent.rmdir()
        self._held.release()

    async def _serve(self, listener: socket.socket) -> None:
        app = App(self._intake, executor=self._executor, knows=self._sources.knows)
        Desk(self._sources, self._outlets, self._warning).open(app)
        settings = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        server = Server(settings)
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
            await asyncio.sleep(LOOK_S)  # for what was in hand when it ceased to serve

    def _hurry(self) -> None:
        self._deadline = self._deadline or time.monotonic() + SIGNAL_S

    def _has_work(self) -> bool:
        """Does what is due; whether there is a reason to stay."""
        self._intake.tick()
        now = time.monotonic()
        self._look_after_runs()
        if self.is_overdue:
            return False
        if self.is_needed:
            self._wait_for_backends(False)
            self._alone_since = 0.0
            return True
        if not self._alone_since:
            self._wait_for_backends(True)
            self._alone_since = now
        return any(outlet.delivery.queue and self._is_worth_waiting(outlet, now) for outlet in self._outlets)

    @property
    def is_overdue(self) -> bool:
        """Whether its time after SIGTERM is over."""
        return self._deadline is not None and time.monotonic() > self._deadline

    @property
    def is_needed(self) -> bool:
        """Whether a training process is there, or may still come."""
        return self._sources.is_needed()

    def _look_after_runs(self) -> None:
        if any(source.ends_runs for source in self._sources.lost().values()):
            self._orphaned = True
            if not self._sources.has_owner():
                self._end_runs()  # now, so that it shows; a value of another rank opens them again
        if self._sources.has_owner():
            self._orphaned = False  # torchrun has started it again
        if self._orphaned and not self.is_needed:
            self._end_runs()  # at each look: a late process, or request, may have opened it again

    def _wait_for_backends(self, wanted: bool) -> None:
        """Once nobody is left, the deliveries' back-offs are short: this is their last chance."""
        if bool(self._alone_since) != wanted:
            for outlet in self._outlets:
                outlet.delivery.hasten(wanted)

    def _is_worth_waiting(self, outlet: Outlet, now: float) -> bool:
        link = outlet.delivery.link
        moved = max(link.progress, self._alone_since)
        return now - moved < self._sources.patience or 0 < link.busy_for < CALL_S

    def _end_runs(self) -> None:
        """The process that ends the runs is gone without a word: killed, out of memory, crashed."""
        for info in self._runs.open():
            _log.warning("run %s: its process has ended without a word", info.id)
            self._intake.logs(status_request(info, "killed", time.time_ns(), inferred=True))


def main() -> None:
    """The process's way from its standard input to its end."""
    config: dict[str, Any] = json.load(sys.stdin.buffer)
    sys.path += [path for path in config["sys_path"] if path not in sys.path]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(REDACTING)  # what trackers' clients log too
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    paths = {name: Path(path) for name, path in config["address"].items() if name != "key"}
    with Lock(paths["lock"], paths["socket"]) as lock:
        if lock is None:
            return
        agent: Agent | None = None
        try:
            while agent is None or agent.is_needed:  # also by one who came while it was about to end
                with lock.listen() as listener:  # before anything that takes long, so that training finds it
                    agent = agent or Agent(config, config["address"]["key"])
                    agent.serve(listener)
                if agent.is_overdue:
                    break
        finally:
            lock.leave()
            if agent is not None:
                agent.close()
    with contextlib.suppress(OSError):
        if not paths["log"].stat().st_size:
            paths["log"].unlink()
