"""Which runs are open here, and which have ended. Survives restarts.

A run is open from its first point or record until its status record. If nothing of it comes for a given time,
it counts as killed. Data that comes after that opens it again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tracelet_otel import semconv
from tracelet_otel.delivery.spool.json_lines import write_whole
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.records import RunInfo

KEPT_S: Final = 24 * 3600.0
"""How long a run that has ended is remembered, so that a late value does not leave it open."""
MOST_ENDED: Final = 1000
"""The most runs that have ended and are remembered."""

State = Literal["open", "ended", "silent"]


@dataclass(slots=True)
class RunEntry:
    """What is known of one run."""

    info: RunInfo
    state: State = "open"
    """``ended``: by its own status. ``silent``: taken as killed, since nothing came."""
    status: str = ""
    time_unix_nano: int = 0
    """Of the status."""
    began: int = 0
    """Nanoseconds since 1970 of the run's latest description. An earlier status is of an older attempt."""
    heard: float = 0.0
    """When something of it came last, or it ended; of :func:`time.monotonic`."""
    described: bool = False
    """Whether the run's own description came, and not only resources that name it."""
    restored: bool = False
    """Whether it ended before this process began, so that its trackers' clients do not know it."""


class Runs:
    """The runs. Changed under the intake's lock, and read by every delivery.

    Args:
        path: the file that keeps them. None: they are not kept.
        silence: seconds without anything of a run after which it counts as killed.
        clock: seconds.
    """

    def __init__(
        self, path: Path | None, *, silence: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._silence = silence
        self._clock = clock
        self._entries: dict[str, RunEntry] = {}
        self._changed: set[str] = set()
        self._lines = 0
        """In the file."""
        self.recovered: set[str] = set()
        """Runs that are in a spool and not in the file."""
        if path is not None:
            self._load(path)

    def describe(self, run_id: str) -> RunInfo | None:
        """The run's description, as far as it is known."""
        entry = self._entries.get(run_id)
        return entry.info if entry is not None else None

    def is_open(self, run_id: str) -> bool:
        """Whether values of it came, and its end did not."""
        entry = self._entries.get(run_id)
        return entry is not None and entry.state == "open"

    def get(self, run_id: str) -> RunEntry | None:
        """What is known of a run."""
        return self._entries.get(run_id)

    def counts(self) -> dict[State, int]:
        """How many runs are in each state."""
        found: dict[State, int] = {"open": 0, "ended": 0, "silent": 0}
        for entry in tuple(self._entries.values()):
            found[entry.state] += 1
        return found

    def hear(self, run_id: str) -> None:
        """Notes that something of a run came, for example measurements of its machine."""
        entry = self._entries.get(run_id)
        if entry is not None and entry.state == "open":
            self._hear(entry)

    def value(self, run_id: str, info: RunInfo | None) -> RunEntry:
        """Notes a point or record of a run, which opens the run unless its own status ended it.

        Args:
            run_id: the run's.
            info: how the resource describes it, if it does.
        """
        entry = self._entries.get(run_id)
        if entry is None:
            entry = self._entries[run_id] = RunEntry(info or RunInfo(run_id))
            self._changed.add(run_id)
        elif entry.state == "silent":
            self._open(entry)
        if info is not None and not entry.described and info != entry.info:
            entry.info = info
            self._changed.add(run_id)
        if entry.state == "open":
            self._hear(entry)
        return entry

    def run(self, info: RunInfo, time_unix_nano: int) -> None:
        """Notes a run's own description, which opens the run again if it is newer than the run's end."""
        entry = self._entries.setdefault(info.id, RunEntry(info))
        if entry.state == "silent" or (entry.state == "ended" and time_unix_nano > entry.time_unix_nano):
            self._open(entry)
        entry.info, entry.described, entry.heard = info, True, self._clock()
        entry.began = max(entry.began, time_unix_nano)
        self._changed.add(info.id)

    def status(self, run_id: str, status: str, time_unix_nano: int, *, inferred: bool) -> None:
        """Notes a run's end."""
        entry = self._entries.setdefault(run_id, RunEntry(RunInfo(run_id)))
        if time_unix_nano < entry.began:  # of an attempt that another one followed
            return
        entry.state, entry.status = "silent" if inferred else "ended", status
        entry.time_unix_nano, entry.heard, entry.restored = time_unix_nano, self._clock(), False
        self._changed.add(run_id)

    def open(self) -> list[RunInfo]:
        """The runs that are open."""
        return [entry.info for entry in tuple(self._entries.values()) if entry.state == "open"]

    def silent(self) -> list[str]:
        """Open runs of which nothing came for too long."""
        now = self._clock()
        return [
            run_id
            for run_id, entry in self._entries.items()
            if entry.state == "open" and now - entry.heard >= self._silence
        ]

    def forget(self) -> list[str]:
        """Forgets runs that ended long ago, and those beyond :data:`MOST_ENDED`; their ids."""
        ended = sorted(
            (entry.heard, run_id) for run_id, entry in self._entries.items() if entry.state != "open"
        )
        now = self._clock()
        old = [
            run_id
            for number, (heard, run_id) in enumerate(ended)
            if now - heard > KEPT_S or number < len(ended) - MOST_ENDED
        ]
        for run_id in old:
            del self._entries[run_id]
        self._changed.update(old)
        return old

    def save(self) -> None:
        """Appends what has changed to the file. A failure is logged, and the next call tries again."""
        if self._path is None or not self._changed:
            return
        try:
            if self._lines > 2 * len(self._entries) + 1000:
                self._rewrite(self._path)
            else:
                lines = [_line(run_id, self._entries.get(run_id)) for run_id in sorted(self._changed)]
                with self._path.open("ab", buffering=0) as file:
                    write_whole(file, b"".join(lines))
                self._lines += len(lines)
        except OSError as error:
            log_once("runs", logging.ERROR, "%s cannot be written: %s", self._path, error)
        else:
            self._changed.clear()

    def _rewrite(self, path: Path) -> None:
        """Replaces the file by one with a single line for each run."""
        temporary = path.with_suffix(".new")
        temporary.write_bytes(b"".join(_line(run_id, entry) for run_id, entry in self._entries.items()))
        os.replace(temporary, path)  # noqa: PTH105
        self._lines = len(self._entries)

    def _open(self, entry: RunEntry) -> None:
        entry.state, entry.restored = "open", False
        self._hear(entry)
        self._changed.add(entry.info.id)

    def _hear(self, entry: RunEntry) -> None:
        entry.heard, entry.status = self._clock(), ""

    def _load(self, path: Path) -> None:
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        except OSError as error:
            log_once("runs", logging.ERROR, "%s cannot be read and begins empty: %s", path, error)
            return
        now = self._clock()  # nothing could come meanwhile
        for line in lines:
            try:
                content: Any = json.loads(line)
                entry = _restored(content, now)
                run_id = str(content["info"]["id"])
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                log_once("runs", logging.WARNING, "%s: a line is left out: %r", path, error)
                continue
            if entry is None:
                self._entries.pop(run_id, None)
            else:
                self._entries[run_id] = entry
        self._lines = len(lines)
        if lines and not lines[-1].endswith(b"\n"):  # else the next line would continue that one
            self._rewrite(path)


def _line(run_id: str, entry: RunEntry | None) -> bytes:
    """A run as a line of the file. A forgotten run has no state."""
    if entry is None:
        return json.dumps({"info": {"id": run_id}, "state": None}).encode() + b"\n"
    info = entry.info
    content = {
        "info": {
            "id": run_id,
            "name": info.name,
            "project": info.project,
            "experiment": info.experiment,
            "tags": dict(info.tags),
        },
        "state": entry.state,
        "status": entry.status,
        "time_unix_nano": entry.time_unix_nano,
        "began": entry.began,
        "described": entry.described,
    }
    return json.dumps(content).encode() + b"\n"


def _restored(content: dict[str, Any], now: float) -> RunEntry | None:
    state = content["state"]
    if state is None:
        return None
    return RunEntry(
        RunInfo(**content["info"]),
        state if state in ("ended", "silent") else "open",
        str(content["status"]),
        int(content["time_unix_nano"]),
        int(content["began"]),
        now,
        bool(content["described"]),
        restored=state == "ended",
    )


def status_request(info: RunInfo, status: str, time_unix_nano: int, *, inferred: bool) -> bytes:
    """The logs request of a status that the run does not send itself."""
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    described = {
        semconv.RUN_ID: info.id,
        semconv.RUN_NAME: info.name,
        semconv.PROJECT: info.project,
        semconv.EXPERIMENT: info.experiment,
    }
    resource.resource.attributes.extend(_text(key, value) for key, value in described.items() if value)
    record = resource.scope_logs.add().log_records.add()
    record.event_name = semconv.EVENT_PREFIX + "status"
    record.time_unix_nano = record.observed_time_unix_nano = time_unix_nano
    record.attributes.append(_text(semconv.RUN_ID, info.id))
    record.attributes.append(_text(semconv.RUN_STATUS, status))
    if inferred:
        record.attributes.append(KeyValue(key=semconv.STATUS_INFERRED, value=AnyValue(bool_value=True)))
    return request.SerializeToString()


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))
