"""``tracelet-otel import``: TensorBoard's event files into trackers."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from tracelet_otel.cli import event_folders, outcome, progress, targets
from tracelet_otel.cli.event_folders import Damage, EventRun
from tracelet_otel.cli.sending import Part, Sender
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.settings import ConfigurationError

MOST_NOTES = 20
"""Damaged files that are named."""


@dataclass(frozen=True)
class Request:
    """What to import.

    Args:
        folders: of TensorBoard.
        project: that the runs are filed under.
        experiment: inside the project.
        one_run: whether each of ``folders`` is one run, or each folder with event files in it.
    """

    folders: Sequence[Path]
    project: str = ""
    experiment: str = ""
    one_run: bool = False


class _RunStream:
    """All runs as the stream of one backend, one after the other."""

    def __init__(self, runs: Sequence[EventRun], request: Request, media: MediaFolder | None) -> None:
        self.damage = Damage()
        self.undecodable = 0
        self.runs_read = 0
        """Runs that were read to their end."""
        self._runs = runs
        self._request = request
        self._media = media

    def parts(self) -> Iterator[Part]:
        # The event files' decoders: numpy, TensorBoard.
        from tracelet_otel.cli.event_batches import EventRunReader

        base = 0
        for run in self._runs:
            reader = EventRunReader(run, self._request.project, self._request.experiment, self._media)
            for batch in reader.batches():
                yield Part(base + reader.done, batch)
            base += run.size
            self.runs_read += 1
            self.damage.add(reader.damage)
            self.undecodable += reader.undecodable
            yield Part(base, finished=str(run.folder))


def run(request: Request, names: Sequence[str], options: Sequence[str], *, timeout: float) -> int:
    """Imports; the exit code.

    Args:
        request: what to import.
        names: of the backends; ``file`` writes a spool.
        options: ``backend.key=value``.
        timeout: seconds without progress after which a backend is given up.

    Raises:
        ConfigurationError: there is nothing to import, or a backend cannot be used.
    """
    chosen = targets.make(names, options, with_file=True, command="import")
    runs = _find(request)
    stop = threading.Event()
    media = MediaFolder()
    streams = {
        name: _RunStream(runs, request, media if isinstance(target, targets.FileTarget) else None)
        for name, target in chosen.items()
    }
    total = sum(run.size for run in runs)
    senders = [
        Sender(name, target, streams[name].parts(), total=total, timeout=timeout, stop=stop)
        for name, target in chosen.items()
    ]
    try:
        interrupted = progress.watch(
            senders, stop, lambda sender: f"{streams[sender.backend].runs_read:,} of {len(runs):,} runs"
        )
    finally:
        media.remove()
    code = outcome.report(
        senders, interrupted=interrupted, again="run the command again: it goes on, nothing is there twice"
    )
    furthest = max(streams.values(), key=lambda item: item.runs_read)
    typer.echo(f"{furthest.runs_read:,} of {len(runs):,} runs read")
    broken = _report_damage(furthest.damage)
    if furthest.undecodable:
        typer.echo(f"{furthest.undecodable:,} values could not be decoded and are artifacts of their runs")
    return code or broken


def show(request: Request) -> int:
    """Lists the runs with their points and records; the exit code.

    Raises:
        ConfigurationError: there is nothing to import.
    """
    from tracelet_otel.cli.event_batches import EventRunReader

    runs = _find(request)
    points = records = 0
    damage = Damage()
    typer.echo(f"{'points':>12} {'records':>9} {'size':>11}  run")
    for run in runs:
        reader = EventRunReader(run, request.project, request.experiment)
        run_points = run_records = 0
        for batch in reader.batches():
            run_points += batch.points
            run_records += batch.records
        points += run_points
        records += run_records
        damage.add(reader.damage)
        typer.echo(f"{run_points:>12,} {run_records:>9,} {progress.size(run.size):>11}  {run.name}")
    total = progress.size(sum(run.size for run in runs))
    typer.echo(f"{points:>12,} {records:>9,} {total:>11}  {len(runs):,} runs")
    return _report_damage(damage)


def _find(request: Request) -> list[EventRun]:
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigurationError(
            "reading event files needs the package tensorboard: pip install 'tracelet-otel[tensorboard]'"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's own loader, where it is installed
    for folder in request.folders:
        if not folder.is_dir():
            raise ConfigurationError(f"there is no folder {folder}")
    runs = event_folders.find(request.folders, one_run=request.one_run)
    if not runs:
        folders = ", ".join(str(folder) for folder in request.folders)
        raise ConfigurationError(f"no event files (*tfevents*) in {folders}")
    return runs


def _report_damage(damage: Damage) -> int:
    for note in damage.notes[:MOST_NOTES]:
        typer.echo(f"left out: {note}", err=True)
    if len(damage.notes) > MOST_NOTES:
        typer.echo(f"left out: parts of {len(damage.notes) - MOST_NOTES:,} more files", err=True)
    if damage.broken:
        typer.echo(f"{damage.broken:,} damaged file{'s' * (damage.broken != 1)}; the rest was read")
    return outcome.LEFT if damage.broken else outcome.DONE
