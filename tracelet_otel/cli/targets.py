"""From ``--backend`` and ``--option`` to what a command delivers to."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from tracelet_otel.backends import registry as backends
from tracelet_otel.delivery.destination import Batch, Destination, Receipt
from tracelet_otel.delivery.file import FileDestination
from tracelet_otel.delivery.otlp.forward import NAMES, Forward
from tracelet_otel.foundation import entry_points as installed
from tracelet_otel.foundation.errors import TransientError
from tracelet_otel.otlp.decoding import decode_records, parse_logs, run_info
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.settings import ConfigurationError, parse_backends, resolve, state_folder
from tracelet_otel.tracker.exporter import TrackerExporter
from tracelet_otel.tracker.interface import Outcome, Tracker

RUNS_PER_FILE: Final = 10
"""A run's end needs a file of its own after its points: a folder of thousands of small runs would become
thousands of files. But all of them are open at once in a tracker that gets them from there."""


class Target(Destination, Protocol):
    """A destination that a command fills to the end, or leaves in the middle."""

    def describe(self, batch: Batch) -> None:
        """Takes the descriptions of runs in a batch of records that is sent later."""
        ...

    def finish(self) -> None:
        """Stores what is still kept here. May be called again after a transient error."""
        ...

    def open_runs(self) -> list[str]:
        """Runs whose end has not been said."""
        ...

    def reasons(self) -> list[str]:
        """Why points and records were refused, the most frequent first."""
        ...


class TrackerTarget(TrackerExporter):
    """A tracker that gets the same data more than once: again after an interruption, or just again.

    Companion files wait in the folder of the distribution, and so do those of training processes that were
    killed.
    """

    def __init__(self, tracker: Tracker, companions: Path) -> None:
        super().__init__(tracker, companions=companions)
        self._reasons: Counter[str] = Counter()

    def describe(self, batch: Batch) -> None:
        """Takes the descriptions of runs, so that points that come before them open the right run."""
        if isinstance(batch.logs, bytes):
            for record in decode_records(parse_logs(batch.logs)):
                if record.kind == "run":
                    info: RunInfo = run_info(record)
                    self._described[record.run_id] = info

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
        return [reason for reason, _ in self._reasons.most_common()]

    def _report(self, outcome: Outcome) -> None:
        self._reasons.update(problem.reason for problem in outcome.rejected)
        super()._report(outcome)


class ForwardTarget(Forward):
    """A receiver of OTLP: what it does with data that it has already is its own matter."""

    def describe(self, batch: Batch) -> None:
        """The descriptions come with the data."""

    def finish(self) -> None:
        """Nothing is kept here."""

    def open_runs(self) -> list[str]:
        """Unknown."""
        return []


class FileTarget(FileDestination):
    """A spool to deliver elsewhere, filled by a command.

    One that is there already is gone on with: what it has, of a command that was interrupted or is repeated,
    is not written again.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        super().__init__(folder, max_bytes=max_bytes)
        self._goes_on: bool | None = None
        """Whether the folder had anything; None: not looked yet."""
        self._ends: list[bytes] = []
        """Ends of runs that are still to be written."""

    def connect(self) -> None:
        """Reads what is there.

        Raises:
            TransientError: it cannot be read.
        """
        if self._goes_on is None:
            try:
                self._goes_on = self._lines.go_on()
            except OSError as error:
                raise TransientError(f"cannot go on with {self.folder}: {error}") from error

    def send(self, batch: Batch) -> Receipt:
        """Appends a batch, unless it is there. Runs' ends are kept for a while.

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

    def describe(self, batch: Batch) -> None:
        """The descriptions come with the data."""

    def open_runs(self) -> list[str]:
        """Unknown."""
        return []

    def reasons(self) -> list[str]:
        """Nothing is refused."""
        return []


def make(
    names: Iterable[str], options: Iterable[str], *, with_file: bool, command: str
) -> dict[str, TrackerTarget | ForwardTarget | FileTarget]:
    """What ``--backend`` and ``--option`` name, by the backend's name.

    Args:
        names: of backends, each may be several with commas between.
        options: ``backend.key=value``.
        with_file: whether backend ``file`` makes sense.
        command: that asks, for messages.

    Raises:
        ConfigurationError: there is no such backend, it takes no OTLP, or does not take an option.
    """
    chosen = parse_backends(",".join(names), "--backend")
    if not chosen:
        raise ConfigurationError(f"--backend is needed: {', '.join(_deliverable(with_file))}")
    for name, given in parse_options(options).items():
        if name not in chosen:
            raise ConfigurationError(f"--option {name}.{next(iter(given))}: there is no --backend {name}")
        chosen[name].update(given)
    state = state_folder(resolve().spool_dir)
    return {name: _make(name, given, state, with_file, command) for name, given in chosen.items()}


def _make(
    name: str, options: Mapping[str, Any], state: Path, with_file: bool, command: str
) -> TrackerTarget | ForwardTarget | FileTarget:
    if name == backends.FILE and with_file:
        session = f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{uuid.uuid4().hex[:6]}"
        limit = resolve().max_spool_bytes
        made = backends.make_file(state / backends.SPOOLS / session / name, options, limit)
        return FileTarget(made.folder, max_bytes=limit)
    if name in NAMES:
        return ForwardTarget(name, options)
    entry_point = installed.find(backends.TRACKER_GROUP, name)
    if entry_point is None:
        if name in backends.available():
            raise ConfigurationError(
                f"{command} cannot deliver to {name!r}, only to: {', '.join(_deliverable(with_file))}"
            )
        raise ConfigurationError(
            f"there is no backend {name!r}; available are {', '.join(_deliverable(with_file))}"
        )
    tracker = backends.make_tracker(name, entry_point, options)
    return TrackerTarget(tracker, state / backends.COMPANIONS / name)


def parse_options(options: Iterable[str]) -> dict[str, dict[str, str]]:
    """``backend.key=value`` as options by backend.

    Raises:
        ConfigurationError: it does not look like that.
    """
    parsed: dict[str, dict[str, str]] = {}
    for option in options:
        place, equals, value = option.partition("=")
        name, dot, key = place.partition(".")
        if not (equals and dot and name and key):
            raise ConfigurationError(f"--option must look like backend.key=value, got {option!r}")
        parsed.setdefault(name.strip(), {})[key.strip()] = value
    return parsed


def _deliverable(with_file: bool) -> list[str]:
    return [
        name
        for name in backends.available()
        if backends.can_be_replayed(name) or (with_file and name == backends.FILE)
    ]
