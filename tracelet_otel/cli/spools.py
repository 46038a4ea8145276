"""Reads spools and files of OTLP JSON lines as streams of batches, with the bytes that are done."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tracelet_otel import semconv
from tracelet_otel.cli.routed import route_of, through
from tracelet_otel.cli.sending import Part
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.routing import Route
from tracelet_otel.delivery.spool import reading
from tracelet_otel.delivery.spool.reading import Request
from tracelet_otel.foundation.locks import is_folder_locked
from tracelet_otel.settings import ConfigurationError

QUIET_SECONDS: Final = 60.0
"""A spool of an unknown process that was not written to for that long is one that is complete."""

_SESSION: Final = re.compile(r"\d{8}-\d{6}-(\d+)-[0-9a-f]{6}")
"""The name of a session's folder, with the process's id."""
_RUN_EVENT: Final = semconv.EVENT_PREFIX + "run"


@dataclass
class Source:
    """A spool's folder, or one file."""

    path: Path
    is_folder: bool
    size: int
    """Bytes when it was found."""
    torn: bool = False
    """Whether the last request of a file was incomplete when it was read."""
    skipped: int = 0
    """Requests that cannot be read, those of the reader that found most."""
    ended: bool = False
    """Whether the last batch ends a run."""
    read_to: dict[Path, int] = field(default_factory=dict[Path, int])

    @property
    def backends(self) -> tuple[str, ...]:
        """That a spool is of, as far as its folder's name says."""
        return tuple(self.path.name.split("+")) if self.is_folder else ()

    @property
    def pid(self) -> int | None:
        """The process that writes a spool, as far as its folder's name says."""
        match = _SESSION.fullmatch(self.path.parent.name)
        return int(match[1]) if match else None


def find(paths: Iterable[Path]) -> list[Source]:
    """The spools and files at these paths, each once.

    Raises:
        ConfigurationError: there is nothing at a path.
    """
    found: dict[Path, Source] = {}
    for path in paths:
        if path.is_dir():
            folders = reading.folders(path)
            if not folders:
                raise ConfigurationError(
                    f"no spool in {path}: it has files named like 000001.otlp or 000001.metrics.jsonl. "
                    "Name other files of OTLP JSON lines themselves"
                )
            for folder in folders:
                found.setdefault(folder.resolve(), Source(folder, True, _size(reading.files(folder))))
        elif path.exists():
            found.setdefault(path.resolve(), Source(path, False, _size([path])))
        else:
            raise ConfigurationError(f"there is no {path}")
    return list(found.values())


def parts(sources: Iterable[Source], backend: str = "") -> Iterator[Part]:
    """Everything in order, or what a backend gets of it.

    Raises:
        OSError: a file cannot be read. One that vanished was delivered by the process that wrote it.
        ConfigurationError: it cannot be told what the backend gets.
    """
    base = 0
    for source in sources:
        done = skipped = 0
        route = route_of(source.path, backend) if source.is_folder else Route()
        # Behind a Collector, points may come before the records that describe their runs.
        yield from (Part(base, batch, describes=True) for batch in _descriptions(source))
        for request in _requests(source):
            done += request.size
            skipped += request.batch is None
            if request.batch is not None:
                source.ended = request.batch.ends
                yield Part(base + done, through(route, request.batch, source.path))
        source.skipped = max(source.skipped, skipped)
        base += max(source.size, done)
        yield Part(base, finished=str(source.path))


def kept_because(source: Source, backends: Iterable[str], trackers: Iterable[str]) -> str:
    """Why a spool that was delivered to ``backends`` must not be removed; empty if it may be."""
    names = set(backends)
    others = [name for name in source.backends if name in trackers and name not in names]
    if others:
        return f"it waits for {', '.join(others)}"
    if is_folder_locked(source.path.parent):
        return "a gateway or an agent uses it"
    if source.torn or source.skipped:
        return "it has requests that cannot be read"
    if _size(reading.files(source.path)) != sum(source.read_to.values()):
        return "there is more in it now"
    if source.pid is not None:
        return f"process {source.pid} may still write to it" if psutil.pid_exists(source.pid) else ""
    newest = max((path.stat().st_mtime for path in reading.files(source.path)), default=0.0)
    if not source.ended and time.time() - newest < QUIET_SECONDS:
        return "its process may still write to it"
    return ""


def _requests(source: Source) -> Iterator[Request]:
    """What is in the files; one that vanishes was delivered by the process that wrote it."""
    for path in reading.files(source.path) if source.is_folder else [source.path]:
        read_to = 0
        try:
            size = path.stat().st_size
            for request in reading.read_file(path):
                read_to += request.size
                yield request
        except FileNotFoundError:
            if not source.is_folder:
                raise
            continue
        source.torn = source.torn or read_to < size
        source.read_to[path] = min(read_to, source.read_to.get(path, read_to))  # several backends read


def _descriptions(source: Source) -> Iterator[Batch]:
    """The records that describe runs, where they may come after points."""
    for path in reading.files(source.path) if source.is_folder else [source.path]:
        if source.is_folder and path.suffix != reading.SEGMENT:
            continue
        for request in reading.logs_with(path, _RUN_EVENT):
            for resource in request.resource_logs:
                for scope in resource.scope_logs:
                    records = [item for item in scope.log_records if item.event_name == _RUN_EVENT]
                    del scope.log_records[:]
                    scope.log_records.extend(records)
            yield Batch(logs=request.SerializeToString())


def _size(files: Iterable[Path]) -> int:
    total = 0
    for path in files:
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # delivered meanwhile
            continue
    return total
