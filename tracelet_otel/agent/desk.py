"""Where training's processes say that they are there, ask what became of what they sent, and take leave."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from typing import Final

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
from tracelet_otel.gateway.budget import Budget
from tracelet_otel.gateway.http_app import JSON, App
from tracelet_otel.gateway.http_messages import RefusedError, Request, Response
from tracelet_otel.gateway.outlets import Outlet

_PAUSE_S: Final = 0.02


class Desk:
    """Answers the agent's own requests, those of OTLP aside.

    Args:
        sources: the processes.
        outlets: that deliver what they send.
        warning: what each is to say to its user; empty if nothing.
    """

    def __init__(self, sources: Sources, outlets: Sequence[Outlet], warning: str) -> None:
        self._sources = sources
        self._outlets = outlets
        self._warning = warning

    def open(self, app: App) -> None:
        """Has the application bring its requests here."""
        app.add_route("POST", SOURCE_PATH, self._add)
        app.add_route("GET", REPORT_PATH, self._report_soon)
        app.add_route("POST", END_PATH, self._end)

    async def _add(self, request: Request) -> Response:
        with Budget(1, 2**20).admit() as admission:
            body = await request.body(admission)
        try:
            source = Source(**json.loads(body))
        except (ValueError, TypeError) as error:
            raise RefusedError(400, f"no source: {error}") from error
        self._sources.add(_name(request), source)
        return Response(body=json.dumps({"agent": os.getpid()}).encode(), content_type=JSON)

    async def _end(self, request: Request) -> Response:
        self._sources.end(_name(request))
        return Response(body=b"{}", content_type=JSON)

    async def _report_soon(self, request: Request) -> Response:
        name = _name(request)
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
                await asyncio.sleep(_PAUSE_S)
        finally:
            for outlet in self._outlets:
                outlet.delivery.hasten(False)
        return Response(body=json.dumps(report.to_json()).encode(), content_type=JSON)

    def _report(self, source: str) -> Report:
        report = Report(os.getpid(), warning=self._warning)
        for outlet in self._outlets:
            delivery = outlet.delivery
            counts, waits = delivery.counts_of(source), delivery.waits_for(source)
            unwritten_points, unwritten_records = delivery.queue.unwritten(source)
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
                    unusable=delivery.link.is_unusable,
                    works=not delivery.is_away,
                    progress=delivery.link.progress,
                    error=delivery.last_error,
                    disk_error=delivery.queue.last_error,
                    refusals=delivery.destination.refusals(),
                    spool=str(outlet.spool.folder),
                    locations=delivery.destination.locations(),
                )
            )
        return report


def _name(request: Request) -> str:
    return request.header(SOURCE_HEADER)
