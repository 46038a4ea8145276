"""Shows the senders' progress on stderr: a bar each on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from tracelet_otel.cli.sending import Sender
from tracelet_otel.secrets.redaction import redacted_text

LINE_EVERY_S: Final = 10.0
"""Time between two lines where stderr is not a terminal."""
STOPPING_S: Final = 30.0
"""How long an interrupt waits for the requests that are under way."""
_POLL_S: Final = 0.2


def watch(
    senders: Sequence[Sender], stop: threading.Event, note: Callable[[Sender], str] = lambda _: ""
) -> bool:
    """Starts the senders and shows them until all have ended.

    Args:
        senders: not started.
        stop: set at the first Ctrl-C, which lets requests that are under way end; a second one does not wait.
        note: what else to show for a sender.

    Returns:
        Whether it was interrupted.
    """
    for sender in senders:
        sender.start()
    try:
        (_bars if sys.stderr.isatty() else _lines)(senders, note)
    except KeyboardInterrupt:
        stop.set()
        print("stopping", file=sys.stderr, flush=True)  # noqa: T201
        deadline = time.monotonic() + STOPPING_S
        try:
            for sender in senders:
                sender.ended.wait(max(0.0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            pass
    return stop.is_set()


def size(number: float) -> str:
    """Bytes as a text."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _status(sender: Sender, note: Callable[[Sender], str]) -> str:
    text = sender.trouble and f"waiting: {sender.trouble}"
    return redacted_text(" ".join((text or note(sender)).split()))


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
        while True:
            ended = all(sender.ended.is_set() for sender in senders)
            for sender, task in tasks.items():
                progress.update(
                    task,
                    completed=sender.done,
                    total=max(sender.total, sender.done),
                    status=_status(sender, note),
                )
            if ended:
                return
            time.sleep(_POLL_S)
