"""Which training processes an agent serves: by HTTP they register, ask for a report, and sign off."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psutil

from tracelet_otel.agent import last_word
from tracelet_otel.agent.protocol import (
    END_PATH,
    LONGEST_WAIT_S,
    REPORT_PATH,
    SOURCE_PATH,
    Report,
    TrainingProcess,
)
from tracelet_otel.delivery.destination import SOURCE_HEADER
from tracelet_otel.delivery.summary import BackendReport
from tracelet_otel.gateway.backends import Backend
from tracelet_otel.gateway.budget import Budget
from tracelet_otel.gateway.http_app import JSON, App
from tracelet_otel.gateway.http_messages import HttpError, Request, Response

LEAST_PATIENCE_S: Final = 10.0
"""The agent waits at least this long for a tracker, however short training itself waits."""
FIRST_PATIENCE_S: Final = 10.0
"""How long an agent that no process has used yet waits for the process that started it, which asks four times
a second. It may never come: the agent before this one, which was about to end, may have served it.
"""
_STARTS_AGREE_S: Final = 2.0
"""The start of a process is known to a clock tick and a second of the boot time."""


class TrainingProcesses:
    """The training processes by their names. Used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: dict[str, tuple[TrainingProcess, psutil.Process | None]] = {}
        self._known: set[str] = set()
        self._since = 0.0
        """When somebody first asked whether the agent is needed, which is once it serves."""
        self.patience = LEAST_PATIENCE_S
        """The longest of all; see :attr:`TrainingProcess.patience`."""

    def add(self, name: str, given: TrainingProcess) -> None:
        """Registers a process, also again."""
        try:
            process = psutil.Process(given.pid)
            if abs(process.create_time() - given.started) >= _STARTS_AGREE_S:
                process = None
        except psutil.Error:
            process = None
        with self._lock:
            self._present[name] = given, process
            self._known.add(name)
            self.patience = max(self.patience, given.patience)

    def knows(self, name: str) -> bool:
        """Whether the process was ever registered."""
        return name in self._known

    def end(self, name: str) -> None:
        """Removes a process that sends nothing more, and its last word, which is not needed then."""
        with self._lock:
            given, _ = self._present.pop(name, (None, None))
        if given is not None and given.last_word:
            last_word.take(Path(given.last_word))  # the process may be killed before it can

    def lost(self) -> list[TrainingProcess]:
        """Removes the processes that ended without a message, and returns them."""
        with self._lock:
            gone = [name for name, (_, process) in self._present.items() if not _is_running(process)]
            return [self._present.pop(name)[0] for name in gone]

    def has_owner(self) -> bool:
        """Whether a process is present whose end is the end of runs."""
        with self._lock:
            return any(given.ends_runs for given, _ in self._present.values())

    def is_needed(self) -> bool:
        """Whether a process is present, or the first one may still come."""
        with self._lock:
            self._since = self._since or time.monotonic()
            may_come = not self._known and time.monotonic() - self._since < FIRST_PATIENCE_S
            return bool(self._present) or may_come


def _is_running(process: psutil.Process | None) -> bool:
    """Whether it still runs. Not by its start in seconds, which changes with the machine's clock."""
    try:
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it cannot be looked at: better to wait than to end a run that goes on
        return True


def add_endpoints(app: App, processes: TrainingProcesses, backends: Sequence[Backend], warning: str) -> None:
    """Has the application answer the requests that are not OTLP. Each report has the warning, if any."""

    async def add(request: Request) -> Response:
        with Budget(1, 2**20).admit() as admission:
            body = await request.body(admission)
        try:
            source = TrainingProcess(**json.loads(body))
        except (ValueError, TypeError) as error:
            raise HttpError(400, f"not a training process: {error}") from error
        processes.add(_name(request), source)
        return _answer({"agent": os.getpid()})

    async def end(request: Request) -> Response:
        processes.end(_name(request))
        return _answer({})

    async def report_soon(request: Request) -> Response:
        name = _name(request)
        if not processes.knows(name):
            raise HttpError(404, "this training process is not known")
        try:
            wait = min(float(request.scope["query_string"] or 0), LONGEST_WAIT_S)
        except ValueError as error:
            raise HttpError(400, "the wait is not a number of seconds") from error
        end = time.monotonic() + wait
        for backend in backends:
            backend.delivery.set_waited_for(True)
        try:
            while (report := _report(name, backends, warning)).waits and time.monotonic() < end:
                await asyncio.sleep(0.02)
        finally:
            for backend in backends:
                backend.delivery.set_waited_for(False)
        return _answer(asdict(report))

    app.add_route("POST", SOURCE_PATH, add)
    app.add_route("GET", REPORT_PATH, report_soon)
    app.add_route("POST", END_PATH, end)


def _report(source: str, backends: Sequence[Backend], warning: str) -> Report:
    report = Report(os.getpid(), warning=warning)
    for backend in backends:
        delivery = backend.delivery
        unwritten_points, unwritten_records = delivery.queue.unwritten(source)
        report.backends.append(
            BackendReport(
                **asdict(delivery.counts_of(source)),
                name=delivery.name,
                unwritten_points=unwritten_points,
                unwritten_records=unwritten_records,
                waits=delivery.waits_for(source),
                unusable=delivery.link.is_unusable,
                works=not delivery.is_away,
                progress=delivery.link.progress,
                error=delivery.last_error,
                disk_error=delivery.queue.last_error,
                refusals=delivery.destination.refusals(),
                agent_spool=str(backend.spool.folder),
                locations=delivery.destination.locations(),
            )
        )
    return report


def _answer(content: Mapping[str, Any]) -> Response:
    return Response(body=json.dumps(content).encode(), content_type=JSON)


def _name(request: Request) -> str:
    return request.header(SOURCE_HEADER)
