"""Which runs are open here, and which have ended; kept over restarts.

A run is open from its first point or record on, until its status record; or until nothing was heard of it for
a stated time: then it counts as killed. Data that comes after that opens it again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tracelet_otel import semconv
from tracelet_otel.guard import log_once
from tracelet_otel.records import RunInfo

KEPT_S: Final = 24 * 3600.0
"""How long a run that has ended is remembered: a late value does not leave it open, a second one is known."""
MOST_ENDED: Final = 1000
"""Runs that have ended and are remembered at most."""
_VERSION: Final = 1

State = Literal["open", "ended", "silent"]


@dataclass(slots=True)
class RunEntry:
    """What is known of one run."""

    info: RunInfo
    state: State = "open"
    """``ended``: by its own status. ``silent``: taken as killed, since nothing was heard."""
    status: str = ""
    time_unix_nano: int = 0
    """Of the status."""
    began: int = 0
    """Nanoseconds since 1970 of the run's latest description of itself: an earlier status is an old one."""
    heard: float = 0.0
    """Of :func:`time.monotonic`; for one that has ended: when."""
    described: bool = False
    """Whether the run itself has said what it is called, not just the resource of something of it."""
    restored: bool = False
    """Whether it had ended before this process began, so that its trackers' clients do not know."""


class Runs:
    """The runs. Changed under the intake's lock; looked at by every delivery.

    Args:
        path: the file that keeps them. None: they are not kept.
        silence: seconds after which a run of which nothing is heard is taken as killed.
        clock: seconds.
    """

    def __init__(
        self, path: Path | None, *, silence: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._silence = silence
        self._clock = clock
        self._entries: dict[str, RunEntry] = {}
        self._changed = False
        self.recovered: set[str] = set()
        """Runs that the file did not know, but a spool."""
        if path is not None:
            self._load(path)

    def describe(self, run_id: str) -> RunInfo | None:
        """The run's description as far as it is known."""
        entry = self._entries.get(run_id)
        return entry.info if entry is not None else None

    def is_open(self, run_id: str) -> bool:
        """Whether values of it came, and not yet its end."""
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
        """Something of a run came, be it measurements of its machine."""
        entry = self._entries.get(run_id)
        if entry is not None and entry.state == "open":
            self._hear(entry)

    def value(self, run_id: str, info: RunInfo | None) -> RunEntry:
        """A point or record of a run came: opens it, unless it has said its end.

        Args:
            run_id: the run's.
            info: how the resource describes it, if it does.
        """
        entry = self._entries.get(run_id)
        if entry is None:
            entry = self._entries[run_id] = RunEntry(info or RunInfo(run_id))
            self._changed = True
        elif entry.state == "silent":
            self._open(entry)
        if info is not None and not entry.described and info != entry.info:
            entry.info = info
            self._changed = True
        if entry.state == "open":
            self._hear(entry)
        return entry

    def run(self, info: RunInfo, time_unix_nano: int) -> None:
        """A run's own description came; one that is newer than the run's end opens it again."""
        entry = self._entries.setdefault(info.id, RunEntry(info))
        if entry.state == "silent" or (entry.state == "ended" and time_unix_nano > entry.time_unix_nano):
            self._open(entry)
        entry.info, entry.described, entry.heard = info, True, self._clock()
        entry.began = max(entry.began, time_unix_nano)
        self._changed = True

    def status(self, run_id: str, status: str, time_unix_nano: int, *, inferred: bool) -> None:
        """A run's end came."""
        entry = self._entries.setdefault(run_id, RunEntry(RunInfo(run_id)))
        if time_unix_nano < entry.began:  # of an attempt that another one followed
            return
        entry.state, entry.status = "silent" if inferred else "ended", status
        entry.time_unix_nano, entry.heard, entry.restored = time_unix_nano, self._clock(), False
        self._changed = True

    def silent(self) -> list[str]:
        """Open runs of which nothing was heard for too long."""
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
        self._changed |= bool(old)
        return old

    def save(self) -> None:
        """Writes the file if something has changed. A failure is logged; the next call tries again."""
        if self._path is None or not self._changed:
            return
        content = {
            "version": _VERSION,
            "runs": [_stored(entry) for entry in tuple(self._entries.values())],
        }
        self._changed = False
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            os.replace(temporary, self._path)  # noqa: PTH105
        except OSError as error:
            self._changed = True
            log_once("runs", logging.ERROR, "%s cannot be written: %s", self._path, error)

    def _open(self, entry: RunEntry) -> None:
        entry.state, entry.restored = "open", False
        self._hear(entry)
        self._changed = True

    def _hear(self, entry: RunEntry) -> None:
        entry.heard, entry.status = self._clock(), ""

    def _load(self, path: Path) -> None:
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
            entries = list(_restored(content, self._clock()))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log_once("runs", logging.ERROR, "%s cannot be read, and is begun anew: %r", path, error)
            return
        self._entries = {entry.info.id: entry for entry in entries}


def _stored(entry: RunEntry) -> dict[str, Any]:
    return {
        "info": asdict(entry.info),
        "state": entry.state,
        "status": entry.status,
        "time_unix_nano": entry.time_unix_nano,
        "began": entry.began,
        "described": entry.described,
    }


def _restored(content: dict[str, Any], now: float) -> Iterator[RunEntry]:
    if content["version"] != _VERSION:
        raise ValueError(f"version {content['version']}")
    for item in cast("list[dict[str, Any]]", content["runs"]):
        state = item["state"]
        yield RunEntry(
            RunInfo(**item["info"]),
            state if state in ("ended", "silent") else "open",
            str(item["status"]),
            int(item["time_unix_nano"]),
            int(item["began"]),
            now,  # nothing could be heard meanwhile
            bool(item["described"]),
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
