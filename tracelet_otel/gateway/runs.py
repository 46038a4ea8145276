"""Which runs are open here, and which have ended. Survives restarts.

A run is open from its first point or record until its status record. If nothing of it comes for a given time,
it counts as killed. Data that comes after that opens it again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tracelet_otel import semconv
from tracelet_otel.delivery.spool.json_lines import write_whole
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.gateway.validation import Element
from tracelet_otel.otlp.decoding import presumed_run, run_info
from tracelet_otel.otlp.records import RunInfo

KEPT_S: Final = 24 * 3600.0
"""How long a run that has ended is remembered, so that a late value does not leave it open."""
MOST_ENDED: Final = 1000
"""The most runs that have ended and are remembered."""

_KEPT: Final = ("state", "status", "time_unix_nano", "began", "described")
"""What the file keeps of a :class:`RunEntry` besides ``info``."""
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
    described: bool = False
    """Whether the run's own description came, and not only resources that name it."""
    heard: float = 0.0
    """When something of it came last, or it ended; of :func:`time.monotonic`."""
    restored: bool = False
    """Whether it ended before this process began, so that its trackers' clients do not know it."""


class Runs:
    """The runs. Changed under the intake's lock, and read by every delivery.

    Args:
        path: the file that keeps them.
        silence: seconds without anything of a run after which it counts as killed.
        clock: seconds.
    """

    def __init__(self, path: Path, *, silence: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._silence = silence
        self._clock = clock
        self._entries: dict[str, RunEntry] = {}
        self._changed: set[str] = set()
        self._lines = 0
        """In the file."""
        self._load()
        self.filed = frozenset(self._entries)
        """Runs that were in the file at the start."""

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

    def counts(self) -> dict[str, int]:
        """How many runs are in each state."""
        found = Counter(entry.state for entry in tuple(self._entries.values()))
        return {state: found[state] for state in get_args(State)}

    def note(self, elements: Iterable[Element], resources: Sequence[RunInfo | None]) -> list[RunEntry]:
        """Notes what came, and how the resources of the request describe their runs.

        Returns the runs that had ended before this process began: their trackers' clients do not know it.
        """
        late: dict[str, RunEntry] = {}
        valued: set[str] = set()
        for element in elements:
            run_id, record = element.run_id, element.record
            if record is not None and record.kind == "run":
                self.run(run_info(record), record.time_unix_nano)
            elif record is not None and record.kind == "status":
                inferred = record.attributes.get(semconv.STATUS_INFERRED) is True
                status = str(record.attributes[semconv.RUN_STATUS])
                self.status(run_id, status, record.time_unix_nano, inferred=inferred)
                late.pop(run_id, None)
            elif record is None and not element.points:
                self.hear(run_id)
            elif run_id not in valued:
                valued.add(run_id)
                entry = self.value(run_id, presumed_run(run_id, [resources[element.place[0]]]))
                if entry.restored:
                    late[run_id] = entry
        return list(late.values())

    def hear(self, run_id: str) -> None:
        """Notes that something of a run came, for example measurements of its machine."""
        entry = self._entries.get(run_id)
        if entry is not None and entry.state == "open":
            self._hear(entry)

    def value(self, run_id: str, info: RunInfo | None) -> RunEntry:
        """Notes a point or record of a run, which opens the run unless its own status ended it.

        ``info`` is how the resource describes the run, if it does.
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

    def silent(self) -> list[RunEntry]:
        """Open runs of which nothing came for too long."""
        latest = self._clock() - self._silence
        return [entry for entry in self._entries.values() if entry.state == "open" and entry.heard <= latest]

    def forget(self) -> list[str]:
        """Forgets runs that ended long ago, and those beyond :data:`MOST_ENDED`; their ids."""
        ended = sorted(
            (entry.heard, run_id) for run_id, entry in self._entries.items() if entry.state != "open"
        )
        kept_from = self._clock() - KEPT_S
        old = [run_id for _, run_id in ended[:-MOST_ENDED]]
        old += [run_id for heard, run_id in ended[-MOST_ENDED:] if heard < kept_from]
        for run_id in old:
            del self._entries[run_id]
        self._changed.update(old)
        return old

    def save(self) -> None:
        """Appends what has changed to the file. A failure is logged, and the next call tries again."""
        if not self._changed:
            return
        try:
            if self._lines > 2 * len(self._entries) + 1000:
                self._rewrite()
            else:
                lines = [_line(run_id, self._entries.get(run_id)) for run_id in sorted(self._changed)]
                with self._path.open("ab", buffering=0) as file:
                    write_whole(file, b"".join(lines))
                self._lines += len(lines)
        except OSError as error:
            log_once("runs", logging.ERROR, "%s cannot be written: %s", self._path, error)
        else:
            self._changed.clear()

    def _rewrite(self) -> None:
        """Replaces the file by one with a single line for each run."""
        temporary = self._path.with_suffix(".new")
        temporary.write_bytes(b"".join(_line(run_id, entry) for run_id, entry in self._entries.items()))
        os.replace(temporary, self._path)  # noqa: PTH105
        self._lines = len(self._entries)

    def _open(self, entry: RunEntry) -> None:
        entry.state, entry.restored = "open", False
        self._hear(entry)
        self._changed.add(entry.info.id)

    def _hear(self, entry: RunEntry) -> None:
        entry.heard, entry.status = self._clock(), ""

    def _load(self) -> None:
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        except OSError as error:
            log_once("runs", logging.ERROR, "%s cannot be read and begins empty: %s", self._path, error)
            return
        now = self._clock()  # nothing could come meanwhile
        for line in lines:
            try:
                self._restore(json.loads(line), now)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                log_once("runs", logging.WARNING, "%s: a line is left out: %r", self._path, error)
        self._lines = len(lines)
        if lines and not lines[-1].endswith(b"\n"):  # else the next line would continue that one
            self._rewrite()

    def _restore(self, content: dict[str, Any], now: float) -> None:
        state = content["state"]
        if state is None:
            self._entries.pop(content["info"]["id"], None)
            return
        entry = RunEntry(
            RunInfo(**content["info"]),
            state if state in ("ended", "silent") else "open",
            str(content["status"]),
            int(content["time_unix_nano"]),
            int(content["began"]),
            bool(content["described"]),
            heard=now,
            restored=state == "ended",
        )
        self._entries[str(entry.info.id)] = entry


def _line(run_id: str, entry: RunEntry | None) -> bytes:
    """A run as a line of the file. A forgotten run has no state."""
    content: dict[str, Any] = {"info": {"id": run_id}, "state": None}
    if entry is not None:
        content = {"info": asdict(entry.info), **{name: getattr(entry, name) for name in _KEPT}}
    return json.dumps(content).encode() + b"\n"


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
    for key, value in described.items():
        if value:
            resource.resource.attributes.add(key=key).value.string_value = value
    record = resource.scope_logs.add().log_records.add()
    record.event_name = semconv.EVENT_PREFIX + "status"
    record.time_unix_nano = record.observed_time_unix_nano = time_unix_nano
    record.attributes.add(key=semconv.RUN_ID).value.string_value = info.id
    record.attributes.add(key=semconv.RUN_STATUS).value.string_value = status
    if inferred:
        record.attributes.add(key=semconv.STATUS_INFERRED).value.bool_value = True
    return request.SerializeToString()
