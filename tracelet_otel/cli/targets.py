"""From ``--backend`` and ``--option`` to what a command delivers to."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tracelet_otel.backends.deliveries import make_file, make_tracker
from tracelet_otel.backends.names import COMPANIONS, FILE, SPOOLS, TRACKER_GROUP, available, can_be_replayed
from tracelet_otel.delivery.destination import Batch, Receipt
from tracelet_otel.delivery.file import FileDestination
from tracelet_otel.delivery.otlp.forward import NAMES, Forward
from tracelet_otel.foundation.entry_points import find
from tracelet_otel.foundation.errors import TransientError
from tracelet_otel.otlp.decoding import decode_records, parse_logs, run_info
from tracelet_otel.settings import ConfigurationError, parse_backends, resolve, state_folder
from tracelet_otel.tracker.exporter import TrackerExporter
from tracelet_otel.tracker.interface import Outcome, Tracker
from tracelet_otel.tracker.outcome_log import OutcomeLog

RUNS_PER_FILE: Final = 10
"""Ends of runs in one file. An end needs a file of its own after the run's points, so with one run a file a
folder of thousands of small runs would become thousands of files. But a tracker that gets the spool has all
runs of a file open at once."""


class Target:
    """What a command needs of a destination besides sending: it fills it to the end, or stops in the middle.

    These defaults are for destinations that keep nothing back and refuse nothing.
    """

    def describe(self, batch: Batch) -> None:
        """Takes the descriptions of runs in a batch of records that is sent later."""

    def finish(self) -> None:
        """Stores what is still kept here. May be called again after a transient error."""

    def open_runs(self) -> list[str]:
        """Runs that this data opened and did not end, as far as is known."""
        return []

    def reasons(self) -> list[str]:
        """Why points and records were refused, the most frequent first."""
        return []


class _Reasons(OutcomeLog):
    """Counts why a tracker refused points and records, beside the log."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.counts: Counter[str] = Counter()

    def report(self, outcome: Outcome) -> None:
        """See :meth:`OutcomeLog.report`."""
        self.counts.update(problem.reason for problem in outcome.rejected)
        super().report(outcome)


class TrackerTarget(TrackerExporter, Target):
    """A tracker that gets the same data more than once: again after an interruption, or just again.

    Companion files wait in the folder of the distribution, and so do those of training processes that were
    killed.
    """

    def __init__(self, tracker: Tracker, companions: Path) -> None:
        super().__init__(tracker, companions=companions)
        self._log = self._reasons = _Reasons(tracker.name)

    def describe(self, batch: Batch) -> None:
        """Takes the descriptions of runs, so that points that come before them open the right run."""
        if isinstance(batch.logs, bytes):
            for record in decode_records(parse_logs(batch.logs)):
                if record.kind == "run":
                    self._described[record.run_id] = run_info(record)

    def finish(self) -> None:
        """Stores the companion files of the runs that stay open."""
        for run_id in self.open_runs():
            self._upload_companions(run_id)

    def close(self) -> None:
        """Ends the client. Companion files that it does not have wait for the next time."""
        self.tracker.close()

    def open_runs(self) -> list[str]:
        """Runs that this data opened and did not end."""
        return sorted(self._open)

    def reasons(self) -> list[str]:
        """Why points and records were refused, the most frequent first."""
        return [reason for reason, _ in self._reasons.counts.most_common()]


class ForwardTarget(Forward, Target):
    """A receiver of OTLP; descriptions of runs come with the data."""


class FileTarget(FileDestination, Target):
    """A spool to deliver elsewhere, filled by a command.

    If the spool exists, this continues it: what it has from a command that was interrupted or is repeated is
    not written again.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        super().__init__(folder, max_bytes=max_bytes)
        self._goes_on: bool | None = None
        """Whether the folder had any data; None before the first look."""
        self._ends: list[bytes] = []
        """Ends of runs that are still to be written."""

    def connect(self) -> None:
        """Reads what the spool has.

        Raises:
            TransientError: it cannot be read.
        """
        if self._goes_on is None:
            try:
                self._goes_on = self._lines.go_on()
            except OSError as error:
                raise TransientError(f"cannot go on with {self.folder}: {error}") from error

    def send(self, batch: Batch) -> Receipt:
        """Appends a batch that the spool does not have. Ends of runs are kept for a while.

        Raises:
            SpoolFullError, TransientError: as :meth:`FileDestination.send`.
        """
        if not (batch.ends and isinstance(batch.logs, bytes)):
            return super().send(batch)
        self._ends.append(batch.logs)
        if len(self._ends) >= RUNS_PER_FILE:
            self.finish()
        return Receipt(batch.points, batch.records)

    def finish(self) -> None:
        """Appends the ends of runs that are kept."""
        if self._ends:
            super().send(Batch(logs=b"".join(self._ends), ends=True))  # requests in a row are one
            self._ends = []

    def close(self) -> None:
        """Makes the files durable."""
        try:
            self.finish()
        finally:
            super().close()

    def locations(self) -> list[str]:
        """The folder."""
        return [str(self.folder)] if self._goes_on else super().locations()


AnyTarget = TrackerTarget | ForwardTarget | FileTarget


def make(
    names: Iterable[str], options: Iterable[str], *, with_file: bool, command: str
) -> dict[str, AnyTarget]:
    """What ``--backend`` and ``--option`` name, by the backend's name.

    Args:
        names: of backends, each may be several with commas between.
        options: ``backend.key=value``.
        with_file: whether backend ``file`` makes sense.
        command: the name of the command, for messages.

    Raises:
        ConfigurationError: there is no such backend, it does not take OTLP, or it does not take an option.
    """
    chosen = parse_backends(",".join(names), "--backend")
    if not chosen:
        raise ConfigurationError(f"--backend is needed: {', '.join(_deliverable(with_file))}")
    add_options(chosen, options)
    state = state_folder(resolve().spool_dir)
    return {name: _make(name, given, state, with_file, command) for name, given in chosen.items()}


def _make(name: str, options: Mapping[str, Any], state: Path, with_file: bool, command: str) -> AnyTarget:
    if name == FILE and with_file:
        session = f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{uuid.uuid4().hex[:6]}"
        limit = resolve().max_spool_bytes
        made = make_file(state / SPOOLS / session / name, options, limit)
        return FileTarget(made.folder, max_bytes=limit)
    if name in NAMES:
        return ForwardTarget(name, options)
    entry_point = find(TRACKER_GROUP, name)
    if entry_point is None:
        if name in available():
            raise ConfigurationError(
                f"{command} cannot deliver to {name!r}, only to: {', '.join(_deliverable(with_file))}"
            )
        raise ConfigurationError(
            f"there is no backend {name!r}; available are {', '.join(_deliverable(with_file))}"
        )
    tracker = make_tracker(name, entry_point, options)
    return TrackerTarget(tracker, state / COMPANIONS / name)


def add_options(chosen: Mapping[str, dict[str, Any]], options: Iterable[str]) -> None:
    """Adds ``backend.key=value`` to the options of the backends; what was there before is replaced.

    Raises:
        ConfigurationError: it does not look like that, or there is no such backend.
    """
    for option in options:
        place, equals, value = option.partition("=")
        name, dot, key = (part.strip() for part in place.partition("."))
        if not (equals and dot and name and key):
            raise ConfigurationError(f"--option must look like backend.key=value, got {option!r}")
        if name not in chosen:
            raise ConfigurationError(f"--option {name}.{key}: there is no backend {name}")
        chosen[name][key] = value


def _deliverable(with_file: bool) -> list[str]:
    return [name for name in available() if can_be_replayed(name) or (with_file and name == FILE)]
