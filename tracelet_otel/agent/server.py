"""The agent's process: a gateway for one run's processes on this machine, that ends when its work is done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import uvicorn

from tracelet_otel import backends
from tracelet_otel.agent.address import SPOOL_PREFIX
from tracelet_otel.agent.lock import Lock
from tracelet_otel.agent.protocol import (
    END_PATH,
    LONGEST_WAIT_S,
    REPORT_PATH,
    SOURCE_PATH,
    BackendReport,
    Report,
    Source,
)
from tracelet_otel.agent.sources import Sources
from tracelet_otel.delivery.destination import SOURCE_HEADER
from tracelet_otel.gateway.asgi_server import Server
from tracelet_otel.gateway.budget import Budget
from tracelet_otel.gateway.folder_lock import FolderLock, is_held
from tracelet_otel.gateway.http_app import JSON, App
from tracelet_otel.gateway.http_messages import RefusedError, Request, Response
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
_MOST_NEIGHBOURS: Final = 100
_REPORT_PAUSE_S: Final = 0.02
_log: Final = logging.getLogger("tracelet_otel.agent")


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
        state, self.warning = _writable(Path(config["state"]), Path(config["address"]["socket"]).parent)
        self._spools = state / backends.SPOOLS / f"{SPOOL_PREFIX}{key}"
        # Two machines may share the folder, or two processes with other temporary folders.
        self._spools, self._held = _held(self._spools)
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
                    goes_on=True,
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
            if not outlet.delivery.finish_closing(left, last_call=last_call) and outlet.spool:
                _log.warning(
                    "%s: %d points and %d records stay in %s: %s",
                    outlet.delivery.name,
                    outlet.spool.points,
                    outlet.spool.records,
                    outlet.spool.folder,
                    outlet.delivery.last_error,
                )
        self._executor.shutdown()
        if not any(outlet.spool for outlet in self._outlets):
            shutil.rmtree(self._spools, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty
                self._spools.parent.rmdir()
                self._spools.parent.parent.rmdir()
        self._held.release()

    async def _serve(self, listener: socket.socket) -> None:
        app = App(self._intake, executor=self._executor, knows=self._sources.knows)
        app.add_route("POST", SOURCE_PATH, self._add_source)
        app.add_route("GET", REPORT_PATH, self._report_soon)
        app.add_route("POST", END_PATH, self._end_source)
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
        return any(outlet.spool and self._is_worth_waiting(outlet, now) for outlet in self._outlets)

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
            self._end_runs()  # at each look: what that process had sent may only now have been read

    def _wait_for_backends(self, wanted: bool) -> None:
        """Once nobody is left, the deliveries' back-offs are short: this is their last chance."""
        if bool(self._alone_since) != wanted:
            for outlet in self._outlets:
                outlet.delivery.hasten(wanted)

    def _is_worth_waiting(self, outlet: Outlet, now: float) -> bool:
        delivery = outlet.delivery
        moved = max(delivery.progress, self._alone_since)
        return now - moved < self._sources.patience or 0 < delivery.busy_for < CALL_S

    def _end_runs(self) -> None:
        """The process that ends the runs is gone without a word: killed, out of memory, crashed."""
        for info in self._runs.open():
            _log.warning("run %s: its process has ended without a word", info.id)
            self._intake.logs(status_request(info, "killed", time.time_ns(), inferred=True))

    async def _add_source(self, request: Request) -> Response:
        with Budget(1, 2**20).admit() as admission:
            body = await request.body(admission)
        try:
            source = Source(**json.loads(body))
        except (ValueError, TypeError) as error:
            raise RefusedError(400, f"no source: {error}") from error
        self._sources.add(_source(request), source)
        return Response(body=json.dumps({"agent": os.getpid()}).encode(), content_type=JSON)

    async def _end_source(self, request: Request) -> Response:
        self._sources.end(_source(request))
        return Response(body=b"{}", content_type=JSON)

    async def _report_soon(self, request: Request) -> Response:
        name = _source(request)
        if not self._sources.knows(name):
            raise RefusedError(404, "there is no such source")
        try:
            wait = min(float(request.scope["query_string"] or 0), LONGEST_WAIT_S)
        except ValueError as error:
            raise RefusedError(400, "the wait is no number of seconds") from error
        end = time.monotonic() + wait
        for outlet in self._outlets:
            outlet.delivery.hasten(True)
        try:
            while (report := self._report(name)).waits and time.monotonic() < end:
                await asyncio.sleep(_REPORT_PAUSE_S)
        finally:
            for outlet in self._outlets:
                outlet.delivery.hasten(False)
        return Response(body=json.dumps(report.to_json()).encode(), content_type=JSON)

    def _report(self, source: str) -> Report:
        report = Report(os.getpid(), warning=self.warning)
        for outlet in self._outlets:
            delivery = outlet.delivery
            counts, waits = delivery.counts_of(source), delivery.waits_for(source)
            unwritten_points, unwritten_records = delivery.unwritten_of(source)
            report.backends.append(
                BackendReport(
                    delivery.name,
                    captured_points=counts.captured_points,
                    captured_records=counts.captured_records,
                    delivered_points=counts.delivered_points,
                    delivered_records=counts.delivered_records,
                    waiting_points=counts.spooled_points,
                    waiting_records=counts.spooled_records,
                    unwritten_points=unwritten_points,
                    unwritten_records=unwritten_records,
                    waits=waits,
                    unusable=delivery.unusable,
                    works=delivery.works,
                    progress=delivery.progress,
                    error=delivery.last_error,
                    refusals=delivery.destination.refusals(),
                    spool=str(outlet.spool.folder),
                    locations=delivery.destination.locations(),
                )
            )
        return report


def _held(folder: Path) -> tuple[Path, FolderLock]:
    """The folder, or one beside it if another agent has it: processes may differ in their temporary folder.

    Raises:
        ConfigurationError: none of them can be had.
    """
    for number in range(2, _MOST_NEIGHBOURS):
        if not is_held(folder):
            break
        folder = folder.with_name(f"{folder.name.partition('.')[0]}.{number}")
    return folder, FolderLock(folder)


def _writable(state: Path, temporary: Path) -> tuple[Path, str]:
    """The state folder, or a temporary one and why."""
    folder = state / backends.SPOOLS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return state, ""
    except OSError as error:
        warning = f"{folder} cannot be written to, {temporary / 'state'} takes its place: {error}"
        _log.warning("%s", warning)
        return temporary / "state", warning


def _source(request: Request) -> str:
    return request.header(SOURCE_HEADER)


def main() -> None:
    """The process's way from its standard input to its end."""
    config: dict[str, Any] = json.load(sys.stdin.buffer)
    sys.path += [path for path in config["sys_path"] if path not in sys.path]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
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
