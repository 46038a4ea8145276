"""From ``--backend`` and ``--option`` to what a command delivers to."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable
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


class _Bulk:
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


class _RefusalCounter(OutcomeLog):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reasons: Counter[str] = Counter()

    def report(self, outcome: Outcome) -> None:
        self.reasons.update(problem.reason for problem in outcome.rejected)
        super().report(outcome)


class _BulkTracker(TrackerExporter, _Bulk):
    """A tracker that gets the same data more than once: again after an interruption, or just again.

    Companion files wait in the folder of the distribution, and so do those of training processes that were
    killed.
    """

    def __init__(self, tracker: Tracker, companions: Path) -> None:
        super().__init__(tracker, companions=companions)
        self._log = self._refusals = _RefusalCounter(tracker.name)

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
        self.tracker.close()  # companion files that it does not have wait for the next time

    def open_runs(self) -> list[str]:
        return sorted(self._open)

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self._refusals.reasons.most_common()]


class _BulkForward(Forward, _Bulk):
    """A receiver of OTLP; descriptions of runs come with the data."""


class BulkFile(FileDestination, _Bulk):
    """A spool to deliver elsewhere, filled by a command.

    If the spool exists, this continues it: what it has from a command that was interrupted or is repeated is
    not written again.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        super().__init__(folder, max_bytes=max_bytes)
        self._goes_on = False
        """Whether the folder had any data."""
        self._ends: list[bytes] = []
        """Ends of runs that are still to be written."""

    def connect(self) -> None:
        """Reads what the spool has.

        Raises:
            TransientError: it cannot be read.
        """
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


BulkDestination = _BulkTracker | _BulkForward | BulkFile


def make(names: Iterable[str], options: Iterable[str], *, command: str) -> dict[str, BulkDestination]:
    """What ``--backend`` and ``--option`` name, by the backend's name. Only ``import`` fills a spool.

    Raises:
        ConfigurationError: there is no such backend, it does not take OTLP, or it does not take an option.
    """
    chosen = parse_backends(",".join(names), "--backend")
    with_file = command == "import"
    possible = ", ".join(
        name for name in available() if can_be_replayed(name) or (with_file and name == FILE)
    )
    if not chosen:
        raise ConfigurationError(f"--backend is needed: {possible}")
    add_options(chosen, options)
    settings = resolve()
    state, limit = state_folder(settings.spool_dir), settings.max_spool_bytes
    made: dict[str, BulkDestination] = {}
    for name, given in chosen.items():
        if name == FILE and with_file:
            session = f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{uuid.uuid4().hex[:6]}"
            folder = make_file(state / SPOOLS / session / name, given, limit).folder
            made[name] = BulkFile(folder, max_bytes=limit)
        elif name in NAMES:
            made[name] = _BulkForward(name, given)
        elif (entry_point := find(TRACKER_GROUP, name)) is not None:
            made[name] = _BulkTracker(make_tracker(name, entry_point, given), state / COMPANIONS / name)
        elif name in available():
            raise ConfigurationError(f"{command} cannot deliver to {name!r}, only to: {possible}")
        else:
            raise ConfigurationError(f"there is no backend {name!r}; available are {possible}")
    return made


def add_options(chosen: dict[str, dict[str, Any]], options: Iterable[str]) -> None:
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
