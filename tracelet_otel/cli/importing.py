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
from tracelet_otel.cli.event_folders import EventRun
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


class _Import:
    """The stream of one backend: all runs, one after the other."""

    def __init__(self, runs: Sequence[EventRun], request: Request, media: MediaFolder | None) -> None:
        self.notes: list[str] = []
        self.broken = 0
        self.undecodable = 0
        self.runs = 0
        """That were read to their end."""
        self._all = runs
        self._request = request
        self._media = media

    def parts(self) -> Iterator[Part]:
        # The event files' decoders: numpy, TensorBoard.
        from tracelet_otel.cli.event_batches import Reading

        base = 0
        for run in self._all:
            project, experiment = self._request.project, self._request.experiment
            reading = Reading(run, project, experiment, self._media)
            for batch in reading.batches():
                yield Part(base + reading.done, batch)
            base += run.size
            self.runs += 1
            self.notes += reading.damage.notes
            self.broken += reading.damage.broken
            self.undecodable += reading.undecodable
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
    imports = {
        name: _Import(runs, request, media if isinstance(target, targets.FileTarget) else None)
        for name, target in chosen.items()
    }
    total = sum(run.size for run in runs)
    senders = [
        Sender(name, target, imports[name].parts(), total=total, timeout=timeout, stop=stop)
        for name, target in chosen.items()
    ]
    try:
        interrupted = progress.watch(
            senders, stop, lambda sender: f"{imports[sender.backend].runs:,} of {len(runs):,} runs"
        )
    finally:
        media.remove()
    code = outcome.report(
        senders, interrupted=interrupted, again="run the command again: it goes on, nothing is there twice"
    )
    furthest = max(imports.values(), key=lambda item: item.runs)
    typer.echo(f"{furthest.runs:,} of {len(runs):,} runs read")
    broken = _say_damage(furthest.notes, furthest.broken)
    if furthest.undecodable:
        typer.echo(f"{furthest.undecodable:,} values could not be decoded and are artifacts of their runs")
    return code or broken


def show(request: Request) -> int:
    """Lists the runs with their points and records; the exit code.

    Raises:
        ConfigurationError: there is nothing to import.
    """
    from tracelet_otel.cli.event_batches import Reading

    runs = _find(request)
    points = records = 0
    notes: list[str] = []
    broken = 0
    typer.echo(f"{'points':>12} {'records':>9} {'size':>11}  run")
    for run in runs:
        reading = Reading(run, request.project, request.experiment)
        of_run = [0, 0]
        for batch in reading.batches():
            of_run[0] += batch.points
            of_run[1] += batch.records
        points += of_run[0]
        records += of_run[1]
        notes += reading.damage.notes
        broken += reading.damage.broken
        typer.echo(f"{of_run[0]:>12,} {of_run[1]:>9,} {progress.size(run.size):>11}  {run.name}")
    total = progress.size(sum(run.size for run in runs))
    typer.echo(f"{points:>12,} {records:>9,} {total:>11}  {len(runs):,} runs")
    return _say_damage(notes, broken)


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


def _say_damage(notes: Sequence[str], broken: int) -> int:
    for note in notes[:MOST_NOTES]:
        typer.echo(f"left out: {note}", err=True)
    if len(notes) > MOST_NOTES:
        typer.echo(f"left out: parts of {len(notes) - MOST_NOTES:,} more files", err=True)
    if broken:
        typer.echo(f"{broken:,} damaged file{'s' * (broken != 1)}; the rest was read")
    return outcome.LEFT if broken else outcome.DONE
