"""Sends streams of batches to backends, each in a thread of its own: no backend waits for another.

The progress is shown on stderr, and the result on stdout.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

import typer

from tracelet_otel.cli.destinations import BulkDestination
from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.summary import amount
from tracelet_otel.delivery.urgency import FIRST_BACKOFF_S, LONGEST_BACKOFF_S
from tracelet_otel.foundation.errors import DeliveryError, TransientError
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.secrets.redaction import redacted_text
from tracelet_otel.settings import ConfigurationError

DONE, LEFT, INTERRUPTED = 0, 1, 130
"""Exit codes."""
LINE_EVERY_S: Final = 10.0
"""Time between two lines where stderr is not a terminal."""
STOPPING_S: Final = 30.0
"""How long an interrupt waits for the requests that are under way."""
_POLL_S: Final = 0.2

T = TypeVar("T")


class Part(NamedTuple):
    """A step forward in a stream."""

    done: int
    """Bytes of the stream up to its end."""
    batch: Batch | None = None
    finished: str = ""
    """The path of the spool, file or run that ends here."""
    describes: bool = False
    """Whether the batch only describes runs; it comes again."""


class _GivenUpError(Exception):
    """The backend takes no data, or the user stops."""


@dataclass(eq=False)
class Sender:
    """Sends everything, in order, and counts."""

    backend: str
    destination: BulkDestination
    parts: Iterable[Part]
    """The stream; may raise OSError and ConfigurationError."""
    total: int
    """Bytes of the stream, about."""
    timeout: float
    """Seconds without progress after which it gives up."""
    done: int = 0
    points: int = 0
    records: int = 0
    refused_points: int = 0
    refused_records: int = 0
    finished: dict[str, bool] = field(default_factory=dict[str, bool])
    """What was sent to its end, by its path, and whether all of it was taken."""
    error: str = ""
    """Why it ended early; empty otherwise."""
    trouble: str = ""
    """Why it waits at present."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when the user stops."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set at the end: an interrupted ``join()`` returns while the thread still runs."""
    reason: str = ""
    """Why a whole batch was refused."""

    @property
    def refused(self) -> bool:
        """Whether something was refused."""
        return bool(self.refused_points or self.refused_records or self.reason)

    def run(self) -> None:
        """Sends everything. Never raises."""
        try:
            self._retried(self.destination.load)
            self._retried(self.destination.connect)
            self._send_all()
            self._retried(self.destination.finish)
        except (_GivenUpError, ConfigurationError, DeliveryError, OSError) as error:
            self.error = str(error)
        except Exception as error:  # a defect of a tracker: the other backends go on
            self.error = repr(error)
            get_logger().debug("%s failed", self.backend, exc_info=error)
        finally:
            try:
                self.destination.close()
            except Exception as error:
                self.error = self.error or f"at the end: {error}"
            self.ended.set()

    def _send_all(self) -> None:
        refused = 0
        for part in self.parts:
            if self.stop.is_set():
                raise _GivenUpError("interrupted")
            if part.batch is not None and part.describes:
                self.destination.describe(part.batch)
            elif part.batch is not None:
                refused += self._send(part.batch)
            self.done = part.done
            if part.finished:
                self.finished[part.finished] = not refused
                refused = 0

    def _send(self, batch: Batch) -> int:
        """Sends one batch; how many of its points and records were refused, at least 1 if any."""
        taken_points = taken_records = least = 0
        try:
            receipt = self._retried(lambda: self.destination.send(batch))
            taken_points, taken_records = receipt.points, receipt.records
        except (_GivenUpError, OSError):
            raise
        except Exception as error:  # this batch will never be taken
            self.reason = str(error) if isinstance(error, DeliveryError) else repr(error)
            least = 1
        points, records = batch.points - taken_points, batch.records - taken_records
        self.points += taken_points
        self.records += taken_records
        self.refused_points += points
        self.refused_records += records
        return points + records or least

    def _retried(self, action: Callable[[], T]) -> T:
        backoff, began = FIRST_BACKOFF_S, time.monotonic()
        while True:
            try:
                result = action()
            except TransientError as error:
                self.trouble = str(error)
                left = self.timeout - (time.monotonic() - began)
                if left <= 0:
                    raise _GivenUpError(f"no progress for {self.timeout:g} s: {error}") from error
                pause = min(backoff, LONGEST_BACKOFF_S) * random.uniform(0.5, 1.0)
                backoff *= 2
                if self.stop.wait(min(max(pause, error.retry_after or 0.0), left)):
                    raise _GivenUpError("interrupted") from error
            else:
                self.trouble = ""
                return result


def send_all(senders: Sequence[Sender], *, again: str, note: Callable[[Sender], str] = lambda _: "") -> int:
    """Starts the senders, shows them until all have ended, and prints a line for each; the exit code.

    At the first Ctrl-C they stop once the requests that are under way have ended. A second one does not wait,
    so that a sender may still run.

    Args:
        senders: not started.
        again: tells the user what to do about what is left.
        note: what else to show for a sender.
    """
    for sender in senders:
        threading.Thread(target=sender.run, name=f"tracelet-{sender.backend}", daemon=True).start()
    interrupted = False
    try:
        (_bars if sys.stderr.isatty() else _lines)(senders, note)
    except KeyboardInterrupt:
        interrupted = True
        for sender in senders:
            sender.stop.set()
        print("stopping", file=sys.stderr, flush=True)  # noqa: T201
        deadline = time.monotonic() + STOPPING_S
        with contextlib.suppress(KeyboardInterrupt):
            for sender in senders:
                sender.ended.wait(max(0.0, deadline - time.monotonic()))
    for sender in senders:
        typer.echo(_result(sender))
    left = any(sender.error or not sender.ended.is_set() for sender in senders)
    if left:
        typer.echo(again)
    if interrupted and left:
        return INTERRUPTED
    return LEFT if left or any(sender.refused for sender in senders) else DONE


def size(number: float) -> str:
    """Bytes as a text."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _result(sender: Sender) -> str:
    text = f"{sender.backend}: delivered {amount(sender.points, sender.records) or 'nothing'}"
    if sender.refused:
        refused = amount(sender.refused_points, sender.refused_records) or "a run"
        reasons = sender.destination.reasons() or [sender.reason]
        more = f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else ""
        text += f"; refused {refused}: {_one_line(reasons[0])}{more}"
    error = sender.error or ("" if sender.ended.is_set() else "still busy")
    if error:
        text += f"; stopped after {size(sender.done)} of {size(sender.total)}: {_one_line(error)}"
    locations = sender.destination.locations()
    if locations:
        text += f" -> {locations[0]}" + (f" and {len(locations) - 1:,} more" if len(locations) > 1 else "")
    return redacted_text(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _status(sender: Sender, note: Callable[[Sender], str]) -> str:
    return redacted_text(_one_line(f"waiting: {sender.trouble}" if sender.trouble else note(sender)))


def _lines(senders: Sequence[Sender], note: Callable[[Sender], str]) -> None:
    shown = time.monotonic()
    while not all(sender.ended.is_set() for sender in senders):
        for sender in senders:
            sender.ended.wait(_POLL_S)
        if time.monotonic() - shown < LINE_EVERY_S:
            continue
        shown = time.monotonic()
        for sender in senders:
            if not sender.ended.is_set():
                line = f"{sender.backend}: {size(sender.done)} of {size(sender.total)}"
                print(line, _status(sender, note), file=sys.stderr, flush=True)  # noqa: T201


def _bars(senders: Sequence[Sender], note: Callable[[Sender], str]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.fields[name]}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}", markup=False),
    ]
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=5) as progress:
        tasks = {
            sender: progress.add_task("", total=sender.total, name=sender.backend, status="")
            for sender in senders
        }
        ended = False
        while not ended:
            ended = all(sender.ended.is_set() for sender in senders)  # before the last update
            for sender, task in tasks.items():
                total, status = max(sender.total, sender.done), _status(sender, note)
                progress.update(task, completed=sender.done, total=total, status=status)
            if not ended:
                time.sleep(_POLL_S)
