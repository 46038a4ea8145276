"""The agent's own HTTP endpoints: training processes register, ask for a report, and sign off."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from tracelet_otel.agent.protocol import (
    END_PATH,
    LONGEST_WAIT_S,
    REPORT_PATH,
    SOURCE_PATH,
    Report,
    TrainingProcess,
)
from tracelet_otel.agent.training_processes import TrainingProcesses
from tracelet_otel.delivery.destination import SOURCE_HEADER
from tracelet_otel.delivery.summary import BackendReport
from tracelet_otel.gateway.backends import Backend
from tracelet_otel.gateway.budget import Budget
from tracelet_otel.gateway.http_app import JSON, App
from tracelet_otel.gateway.http_messages import HttpError, Request, Response

_PAUSE_S: Final = 0.02


class Endpoints:
    """Answers the requests that are not OTLP.

    Args:
        processes: the training processes.
        backends: deliver what the processes send.
        warning: what each process tells its user; empty if nothing.
    """

    def __init__(self, processes: TrainingProcesses, backends: Sequence[Backend], warning: str) -> None:
        self._processes = processes
        self._backends = backends
        self._warning = warning

    def open(self, app: App) -> None:
        """Adds the endpoints to the application."""
        app.add_route("POST", SOURCE_PATH, self._add)
        app.add_route("GET", REPORT_PATH, self._report_soon)
        app.add_route("POST", END_PATH, self._end)

    async def _add(self, request: Request) -> Response:
        with Budget(1, 2**20).admit() as admission:
            body = await request.body(admission)
        try:
            source = TrainingProcess(**json.loads(body))
        except (ValueError, TypeError) as error:
            raise HttpError(400, f"not a training process: {error}") from error
        self._processes.add(_name(request), source)
        return Response(body=json.dumps({"agent": os.getpid()}).encode(), content_type=JSON)

    async def _end(self, request: Request) -> Response:
        self._processes.end(_name(request))
        return Response(body=b"{}", content_type=JSON)

    async def _report_soon(self, request: Request) -> Response:
        name = _name(request)
        if not self._processes.knows(name):
            raise HttpError(404, "this training process is not known")
        try:
            wait = min(float(request.scope["query_string"] or 0), LONGEST_WAIT_S)
        except ValueError as error:
            raise HttpError(400, "the wait is not a number of seconds") from error
        end = time.monotonic() + wait
        for backend in self._backends:
            backend.delivery.set_waited_for(True)
        try:
            while (report := self._report(name)).waits and time.monotonic() < end:
                await asyncio.sleep(_PAUSE_S)
        finally:
            for backend in self._backends:
                backend.delivery.set_waited_for(False)
        return Response(body=json.dumps(report.to_json()).encode(), content_type=JSON)

    def _report(self, source: str) -> Report:
        report = Report(os.getpid(), warning=self._warning)
        for backend in self._backends:
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


def _name(request: Request) -> str:
    return request.header(SOURCE_HEADER)
