"""``tracelet-otel import``: TensorBoard's event files into trackers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import typer

from tracelet_otel.cli import destinations, event_folders, sending
from tracelet_otel.cli.event_batches import EventRunReader
from tracelet_otel.cli.event_folders import Damage, EventRun
from tracelet_otel.cli.sending import Part, Sender
from tracelet_otel.recording.media import MediaFolder
from tracelet_otel.recording.run import Run
from tracelet_otel.settings import ConfigurationError

MOST_NOTES: Final = 20
"""Damaged files that are named."""


class ImportRequest(NamedTuple):
    """What to import."""

    folders: Sequence[Path]
    """Of TensorBoard."""
    project: str
    """That the runs are filed under."""
    experiment: str
    one_run: bool
    """Whether each of the folders is one run, or each folder with event files in it."""


@dataclass
class _Runs:
    """All runs as the stream of one backend, one after the other."""

    request: ImportRequest
    found: Sequence[EventRun]
    media: MediaFolder | None = None
    damage: Damage = field(default_factory=Damage)
    read: int = 0
    """Runs that were read to their end."""

    def parts(self) -> Iterator[Part]:
        base = 0
        project, experiment = self.request.project, self.request.experiment
        for found in self.found:
            run = Run(id=found.id, name=found.name, project=project, experiment=experiment)
            reader = EventRunReader(found, run, self.damage, self.media)
            for batch in reader.batches():
                yield Part(base + reader.done, batch)
            base += found.size
            self.read += 1
            yield Part(base, finished=str(found.folder))


def run(request: ImportRequest, names: Sequence[str], options: Sequence[str], *, timeout: float) -> int:
    """Imports into backends, of which ``file`` writes a spool; the exit code.

    ``timeout``: seconds without progress.

    Raises:
        ConfigurationError: there is nothing to import, or a backend cannot be used.
    """
    chosen = destinations.make(names, options, command="import")
    found = _find(request)
    media = MediaFolder()
    runs = {
        name: _Runs(request, found, media if isinstance(destination, destinations.BulkFile) else None)
        for name, destination in chosen.items()
    }
    total = sum(run.size for run in found)
    senders = [
        Sender(name, destination, runs[name].parts(), total=total, timeout=timeout)
        for name, destination in chosen.items()
    ]
    try:
        code = sending.send_all(
            senders,
            again="run the command again: it goes on, nothing is there twice",
            note=lambda sender: f"{runs[sender.backend].read:,} of {len(found):,} runs",
        )
    finally:
        media.remove()
    furthest = max(runs.values(), key=lambda item: item.read)
    typer.echo(f"{furthest.read:,} of {len(found):,} runs read")
    broken = _report_damage(furthest.damage)
    if undecodable := furthest.damage.undecodable:
        typer.echo(f"{undecodable:,} values could not be decoded and are artifacts of their runs")
    return code or broken


def show(request: ImportRequest) -> int:
    """Lists the runs with their points and records; the exit code.

    Raises:
        ConfigurationError: there is nothing to import.
    """
    runs = _Runs(request, _find(request))
    points = records = all_points = all_records = 0
    typer.echo(f"{'points':>12} {'records':>9} {'size':>11}  run")
    for part in runs.parts():
        if part.batch is not None:
            points += part.batch.points
            records += part.batch.records
        else:
            run = runs.found[runs.read - 1]
            typer.echo(f"{points:>12,} {records:>9,} {sending.size(run.size):>11}  {run.name}")
            all_points, all_records = all_points + points, all_records + records
            points = records = 0
    total = sending.size(sum(run.size for run in runs.found))
    typer.echo(f"{all_points:>12,} {all_records:>9,} {total:>11}  {runs.read:,} runs")
    return _report_damage(runs.damage)


def _find(request: ImportRequest) -> list[EventRun]:
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigurationError(
            "reading event files needs the package tensorboard: pip install 'tracelet-otel[tensorboard]'"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's own loader, where it is installed
    for folder in request.folders:
        if not folder.is_dir():
            raise ConfigurationError(f"there is no folder {folder}")
    found = event_folders.find(request.folders, one_run=request.one_run)
    if not found:
        raise ConfigurationError(f"no event files (*tfevents*) in {', '.join(map(str, request.folders))}")
    return found


def _report_damage(damage: Damage) -> int:
    for note in damage.notes[:MOST_NOTES]:
        typer.echo(f"left out: {note}", err=True)
    if len(damage.notes) > MOST_NOTES:
        typer.echo(f"left out: parts of {len(damage.notes) - MOST_NOTES:,} more files", err=True)
    if damage.broken:
        typer.echo(f"{damage.broken:,} damaged file{'s' * (damage.broken != 1)}; the rest was read")
    return sending.LEFT if damage.broken else sending.DONE
