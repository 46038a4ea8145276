"""ClearML, through its REST API: every point exact, every record in ClearML's most native form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series, SystemPoint
from tracelet_otel.semconv import Status
from tracelet_otel.tracker.companion import PREFIX
from tracelet_otel.tracker.companion_lines import identities, identity
from tracelet_otel.tracker.interface import Capabilities, Outcome, PointAside, Problem
from tracelet_otel_exporters.clearml import runs
from tracelet_otel_exporters.clearml.connection import ClearMLConnection, ClearMLRefusedError, errors
from tracelet_otel_exporters.clearml.files import read_artifacts, write_artifact
from tracelet_otel_exporters.clearml.library import load_library
from tracelet_otel_exporters.clearml.names import Name
from tracelet_otel_exporters.clearml.records import WRITERS, name_of
from tracelet_otel_exporters.clearml.runs import ClearMLRun
from tracelet_otel_exporters.clearml.system import measurements

MAX_EVENTS: Final = 10_000
MAX_BYTES: Final = 4_000_000
"""Of one request. Its own client's limit is 15 MB, which takes its server long."""

_LARGEST: Final = 3.4028235e38
"""The server keeps doubles exactly, but indexes them as 32-bit floats, and refuses what is beyond these."""
_INT64: Final = 2**63
_LOGGER: Final = get_logger(__name__)


class ClearMLTracker:
    """ClearML as a :class:`~tracelet_otel.tracker.interface.Tracker`.

    Server and credentials are ClearML's own settings: ``clearml.conf`` and the variables
    ``CLEARML_API_HOST``, ``CLEARML_API_ACCESS_KEY``, ``CLEARML_API_SECRET_KEY``, ``CLEARML_FILES_HOST`` and
    ``CLEARML_WEB_HOST``.
    It makes no ``Task.init``, and leaves one of the user's alone.

    Args:
        config_file: a ``clearml.conf`` whose settings win over those of the default one; the variables
            win over both, as always in ClearML.
    """

    name = "clearml"
    library = "clearml"
    capabilities = Capabilities(
        time_resolution_ns=1_000_000,
        keeps_nan=False,
        keeps_infinity=False,
        keeps_repeated_step=False,
        idempotent_retry=True,
    )

    def __init__(self, config_file: str | Path | None = None) -> None:
        if not isinstance(config_file, (str, Path, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"config_file must be a path, got {config_file!r}")
        self._config_file = None if config_file is None else Path(config_file).expanduser()
        self._connection: ClearMLConnection | None = None
        self._runs: dict[str, ClearMLRun] = {}

    def load(self) -> None:
        """Imports ClearML's REST client."""
        load_library()

    def connect(self) -> None:
        """Logs in."""
        if self._connection is None:
            self._connection = ClearMLConnection(self._config_file)
        else:
            self._connection.ping()

    def open_run(self, run: RunInfo) -> str:
        """Finds or creates the task; for one that is open already, updates name and tags."""
        connection = self._connection
        if connection is None:
            raise PermanentError("connect() was not called")
        if run.id not in self._runs:
            self._runs[run.id] = runs.open_run(connection, run)
        elif run != self._runs[run.id].info:
            runs.describe(self._runs[run.id], run)
        opened = self._runs[run.id]
        if not connection.web_host:
            return f"{connection.host} task {opened.id}"
        return f"{connection.web_host}/projects/{opened.project or '*'}/experiments/{opened.id}/output/log"

    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:
        """Writes points, 10,000 a request at most; a repeat of the call leaves the same content."""
        run = self._run(run_id)
        outcome = Outcome()
        aside: dict[int, PointAside] = {}
        tagged = [(line, one.tag) for one in series for line in _lines(run, one, aside)]
        start = size = 0
        for end, (line, _) in enumerate(tagged):
            if end - start == MAX_EVENTS or size + len(line) > MAX_BYTES:
                outcome.add(_send(run, tagged[start:end]))
                start, size = end, 0
            size += len(line) + 1
        outcome.add(_send(run, tagged[start:]))
        outcome.accepted += sum(len(one.points) for one in series) - len(tagged)
        if aside:
            if run.aside is None:
                run.aside = identities(read_artifacts(run, PREFIX) if run.is_resumed else ())
            outcome.aside += [point for key, point in aside.items() if key not in run.aside]
            run.aside.update(aside)  # only now: a retry after a failure has to say them again
        return outcome

    def write_record(self, record: Record) -> Outcome:
        """Writes one record of any kind but ``run`` and ``status``."""
        run = self._run(record.run_id)
        write = WRITERS.get(record.kind)
        if write is None:
            _LOGGER.warning("ClearML: skipped a record of the unknown kind %r (%s)", record.kind, record.tag)
            return Outcome(rejected=[Problem(record.tag, f"unknown kind of record: {record.kind}")])
        with errors():  # also of fsspec's file systems, which have media files
            try:
                return write(run, record) or Outcome(1)
            except (FileNotFoundError, ValueError) as error:
                return Outcome(rejected=[Problem(record.tag or record.kind, str(error))])

    def write_system(self, run_id: str, points: Sequence[SystemPoint]) -> Outcome:
        """Writes measurements of the machine to ClearML's own charts for them."""
        run = self._run(run_id)
        measured = measurements(run, points)
        outcome = _send(run, [(_line(_prefix(run, name), *rest), ":monitor:") for name, rest in measured])
        outcome.accepted = len(points)
        return outcome

    def write_file(self, run_id: str, name: str, path: Path) -> None:
        """Stores a file with the task, as an artifact of that name."""
        with errors():
            write_artifact(self._run(run_id), name, path)

    def close_run(self, run_id: str, status: Status) -> Outcome:
        """Sets the task's final status: everything else is in ClearML already."""
        run = self._run(run_id)
        action, message = runs.ENDS[status]
        run.edit(action, status_reason=message, status_message=message)
        del self._runs[run_id]
        return Outcome()

    def close(self) -> None:
        """Closes the connections; tasks that are open stay in progress."""
        self._runs.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, run_id: str) -> ClearMLRun:
        if (run := self._runs.get(run_id)) is None:
            raise PermanentError(f"run {run_id} is not open")
        return run


def _lines(run: ClearMLRun, series: Series, aside: dict[int, PointAside]) -> Iterator[bytes]:
    """The points that ClearML keeps as they are, as events; the others go aside."""
    name = name_of(run, series.tag, series.rank)
    if (steps := run.steps.get(name)) is None:
        steps = run.steps[name] = runs.known_steps(run, name)
    prefix = _prefix(run, name)
    for point in series.points:
        step, value, time_unix_nano = point
        time_ms = (time_unix_nano + 500_000) // 1_000_000
        reason = _why_not(point, time_ms)
        if (
            not reason
            and steps.add(step, hash((time_unix_nano, value))) == "repeat"
            # What ClearML had before, it has in milliseconds.
            and (not run.is_resumed or steps.add(step, hash((time_ms, value))) == "repeat")
        ):
            reason = "ClearML keeps one value a step"
        # The very same point again is written again: whether the first attempt arrived is not known.
        if reason:
            line = PointAside(series.tag, series.rank, point, reason)
            aside[identity(line)] = line
        else:
            yield _line(prefix, step, value, time_ms)


def _send(run: ClearMLRun, tagged: Sequence[tuple[bytes, str]]) -> Outcome:
    """Sends events with their tags; of those that the server refuses together, each on its own."""
    if not tagged:
        return Outcome()
    try:
        answer = run.connection.add_events(b"\n".join(line for line, _ in tagged))
        if not answer.get("errors"):
            return Outcome(len(tagged))
        reason = json.dumps(answer.get("errors_info"))
    except ClearMLRefusedError as error:
        if not error.is_content:
            raise
        reason = str(error)
    if len(tagged) == 1:
        return Outcome(rejected=[Problem(tagged[0][1], reason)])
    middle = len(tagged) // 2
    outcome = _send(run, tagged[:middle])
    outcome.add(_send(run, tagged[middle:]))
    return outcome


def _why_not(point: Point, time_ms: int) -> str:
    """Why ClearML cannot keep this point as it is."""
    step, value, _ = point
    if not -_LARGEST <= value <= _LARGEST:  # NaN is not either
        return "ClearML has no NaN, infinity or value beyond 32-bit floats"
    if not -_INT64 <= step < _INT64:
        return "ClearML takes only 64-bit steps"
    return "ClearML takes no time before 1970" if time_ms < 0 else ""


def _prefix(run: ClearMLRun, name: Name) -> bytes:
    fields = {"type": "training_stats_scalar", "task": run.id, "metric": name.metric, "variant": name.variant}
    if name.key is not None:
        fields["key"] = name.key
    return (json.dumps(fields)[:-1] + ',"iter":').encode()


def _line(prefix: bytes, iteration: int, value: float, time_ms: int) -> bytes:
    return b'%s%d,"value":%s,"timestamp":%d}' % (prefix, iteration, repr(value).encode(), time_ms)
