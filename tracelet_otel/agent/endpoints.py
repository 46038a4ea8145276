"""The agent's own HTTP endpoints: training processes register, ask for a report, and sign off."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

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
