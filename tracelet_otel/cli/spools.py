"""Reads spools and files of OTLP JSON lines as streams of batches, with the bytes that are done."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from tracelet_otel import semconv
from tracelet_otel.cli.sending import Part
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.routing import Route, take_route
from tracelet_otel.delivery.spool import reading
from tracelet_otel.delivery.spool.json_lines import batch_of
from tracelet_otel.delivery.spool.spool import ROUTES
from tracelet_otel.foundation.locks import is_folder_locked
from tracelet_otel.gateway.partial_requests import Chosen, partial_logs, partial_metrics
from tracelet_otel.gateway.validation import Element, validate_logs, validate_metrics
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics
from tracelet_otel.settings import ConfigurationError

QUIET_SECONDS: Final = 60.0
"""A spool of an unknown process that was not written to for that long is one that is complete."""

_SESSION: Final = re.compile(r"\d{8}-\d{6}-(\d+)-[0-9a-f]{6}")
"""The name of a session's folder, with the process's id."""


@dataclass(eq=False)
class SpoolPart:
    """A spool's folder, or one file."""

    path: Path
    torn: bool = False
    """Whether the last request of a file was incomplete when it was read."""
    skipped: int = 0
    """Requests that cannot be read, those of the reader that found most."""
    ended: bool = False
    """Whether the last batch ends a run."""
    read_to: dict[Path, int] = field(default_factory=dict[Path, int])

    def __post_init__(self) -> None:
        self.is_folder = self.path.is_dir()
        self.size = _size(self.files)
        """Bytes when it was found."""

    @property
    def files(self) -> list[Path]:
        """The files in the order in which they are to be read."""
        return reading.files(self.path) if self.is_folder else [self.path]

    @property
    def backends(self) -> tuple[str, ...]:
        """That a spool is of, as far as its folder's name says."""
        return tuple(self.path.name.split("+")) if self.is_folder else ()

    @property
    def pid(self) -> int | None:
        """The process that writes a spool, as far as its folder's name says."""
        match = _SESSION.fullmatch(self.path.parent.name)
        return int(match[1]) if match else None


def find(paths: Iterable[Path]) -> list[SpoolPart]:
    """The spools and files at these paths, each once.

    Raises:
        ConfigurationError: there is nothing at a path.
    """
    found: dict[Path, SpoolPart] = {}
    for path in paths:
        if not path.exists():
            raise ConfigurationError(f"there is no {path}")
        places = reading.folders(path) if path.is_dir() else [path]
        if not places:
            raise ConfigurationError(
                f"no spool in {path}: it has files named like 000001.otlp or 000001.metrics.jsonl. "
                "Name other files of OTLP JSON lines themselves"
            )
        for place in places:
            found.setdefault(place.resolve(), SpoolPart(place))
    return list(found.values())


def parts(found: Iterable[SpoolPart], backend: str) -> Iterator[Part]:
    """What a backend gets of it, in order.

    Raises:
        OSError: a file cannot be read. One that vanished was delivered by the process that wrote it.
        ConfigurationError: it cannot be told what the backend gets.
    """
    base = 0
    for stored in found:
        done = skipped = 0
        route = _route(stored.path / ROUTES, backend) if stored.is_folder else Route()
        # Behind a Collector, points may come before the records that describe their runs.
        yield from (Part(base, batch, describes=True) for batch in _descriptions(stored))
        for request in _requests(stored):
            done += request.size
            skipped += request.batch is None
            if request.batch is not None:
                stored.ended = request.batch.ends
                yield Part(base + done, _routed(request.batch, route, stored.path))
        stored.skipped = max(stored.skipped, skipped)
        base += max(stored.size, done)
        yield Part(base, finished=str(stored.path))


def kept_because(stored: SpoolPart, backends: Collection[str], trackers: Collection[str]) -> str:
    """Why a spool that was delivered to ``backends`` must not be removed; empty if it may be."""
    others = [name for name in stored.backends if name in trackers and name not in backends]
    if others:
        return f"it waits for {', '.join(others)}"
    if is_folder_locked(stored.path.parent):
        return "a gateway or an agent uses it"
    if stored.torn or stored.skipped:
        return "it has requests that cannot be read"
    if _size(stored.files) != sum(stored.read_to.values()):
        return "there is more in it now"
    if stored.pid is not None:
        return f"process {stored.pid} may still write to it" if psutil.pid_exists(stored.pid) else ""
    newest = max((path.stat().st_mtime for path in stored.files), default=0.0)
    if not stored.ended and time.time() - newest < QUIET_SECONDS:
        return "its process may still write to it"
    return ""


def _requests(stored: SpoolPart) -> Iterator[reading.SpooledRequest]:
    """What is in the files; one that vanishes was delivered by the process that wrote it."""
    for path in stored.files:
        read_to = 0
        try:
            size = path.stat().st_size
            for request in reading.read_file(path):
                read_to += request.size
                yield request
        except FileNotFoundError:
            if not stored.is_folder:
                raise
            continue
        stored.torn = stored.torn or read_to < size
        stored.read_to[path] = min(read_to, stored.read_to.get(path, read_to))  # several backends read


def _descriptions(stored: SpoolPart) -> Iterator[Batch]:
    """The records that describe runs, where they may come after points, and those beside them."""
    for path in stored.files:
        if not stored.is_folder or path.suffix == reading.SEGMENT:
            for request in reading.logs_with(path, semconv.EVENT_PREFIX + "run"):
                yield Batch(logs=request.SerializeToString())


def _route(path: Path, backend: str) -> Route:
    """What of a spool for several backends one gets: everything, unless its session has routes."""
    try:
        routes: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
        return take_route(backend, routes.get(backend, {}))[0]
    except FileNotFoundError:
        return Route()
    except (OSError, ValueError, AttributeError, ConfigurationError) as error:
        raise ConfigurationError(f"{path} does not say which backend gets what: {error}") from error


def _routed(batch: Batch, route: Route, folder: Path) -> Batch:
    """What of a batch a route lets through."""

    def chosen(elements: list[Element]) -> list[Chosen]:
        return [(element, element.ranges) for element in elements if route.takes(element.kind, element.tag)]

    if route.takes_all:
        return batch
    if isinstance(batch.metrics, bytes):
        metrics = parse_metrics(batch.metrics)
        wanted = chosen(validate_metrics(metrics).elements)
        return batch_of(partial_metrics(metrics, wanted), folder) if wanted else Batch()
    if isinstance(batch.logs, bytes):
        logs = parse_logs(batch.logs)
        wanted = chosen(validate_logs(logs, None).elements)
        return batch_of(partial_logs(logs, wanted), folder) if wanted else Batch()
    return batch


def _size(files: Iterable[Path]) -> int:
    total = 0
    for path in files:
        with contextlib.suppress(FileNotFoundError):  # delivered meanwhile
            total += path.stat().st_size
    return total
