"""``tracelet-otel replay`` and ``export``: delivers what is on the disk, or writes it as OTLP JSON lines."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import typer

from tracelet_otel.agent.address import SPOOL_PREFIX
from tracelet_otel.backends.names import FILE, SPOOLS, available
from tracelet_otel.cli import destinations, sending, spools
from tracelet_otel.cli.sending import Sender
from tracelet_otel.cli.spools import SpoolPart
from tracelet_otel.delivery.otlp.forward import NAMES
from tracelet_otel.delivery.spool import reading
from tracelet_otel.delivery.spool.json_lines import JsonLines
from tracelet_otel.delivery.spool.spool import ROUTES
from tracelet_otel.settings import ConfigurationError, resolve, state_folder


def replay(
    paths: Sequence[Path], names: Sequence[str], options: Sequence[str], *, remove: bool, timeout: float
) -> int:
    """Delivers spools, folders with spools and files of OTLP JSON lines to each backend; the exit code.

    Without paths: of the state folder what waits for each backend, and what backend ``file`` wrote.
    ``remove`` is for spools that every backend has completely. ``timeout``: seconds without progress.

    Raises:
        ConfigurationError: there is nothing at a path, or a backend cannot be used.
    """
    chosen = destinations.make(names, options, command="replay")
    folder = state_folder(resolve().spool_dir) / SPOOLS
    found = spools.find(paths)
    if not paths and reading.folders(folder):
        found = spools.find([folder])
    waiting = {  # what each backend gets; several share what is for all of them
        name: [stored for stored in found if paths or {name, FILE} & {*stored.backends}] for name in chosen
    }
    distinct = [stored for stored in found if any(stored in each for each in waiting.values())]
    if not distinct:
        typer.echo(f"nothing to replay in {folder}")
        return sending.DONE
    senders = [
        Sender(
            name,
            destination,
            spools.parts(waiting[name], name),
            total=sum(stored.size for stored in waiting[name]),
            timeout=timeout,
        )
        for name, destination in chosen.items()
    ]
    code = sending.send_all(senders, again="what is left stays where it is; run the command again")
    _say_what_is_odd(senders, distinct)
    for stored in distinct:
        if remove and stored.is_folder:
            _remove(stored, [sender for sender in senders if stored in waiting[sender.backend]])
    return code


def _say_what_is_odd(senders: Sequence[Sender], found: Sequence[SpoolPart]) -> None:
    skipped = [stored for stored in found if stored.skipped]
    if skipped:
        count = sum(stored.skipped for stored in skipped)
        typer.echo(f"skipped {count:,} damaged request{'s' * (count != 1)} in {skipped[0].path}")
    torn = [stored for stored in found if stored.torn]
    if torn:
        typer.echo(f"left out the last request in {torn[0].path}: it is incomplete")
    unended = sorted({run for sender in senders for run in sender.destination.open_runs()})
    if unended:
        more = f" and {len(unended) - 1} more" if len(unended) > 1 else ""
        typer.echo(f"no end of a run in this data, so it stays open: {unended[0]}{more}")


def _remove(stored: SpoolPart, senders: Sequence[Sender]) -> None:
    reason = ""
    for sender in senders:
        if sender.error or not sender.ended.is_set() or not sender.finished.get(str(stored.path)):
            reason = f"{sender.backend} does not have all of it"
    trackers = {*available(), *NAMES} - {FILE}
    reason = reason or spools.kept_because(stored, [sender.backend for sender in senders], trackers)
    try:
        if not reason:
            shutil.rmtree(stored.path)
    except OSError as error:
        reason = str(error)
    if reason:
        typer.echo(f"kept {stored.path}: {reason}")
        return
    typer.echo(f"removed {stored.path}")
    parent = stored.path.parent
    if stored.pid is not None and not any(parent.iterdir()):
        parent.rmdir()
    elif parent.name.startswith(SPOOL_PREFIX) and not any(path.is_dir() for path in parent.iterdir()):
        shutil.rmtree(parent)  # what an agent knew of its runs


def export(path: Path, target: Path) -> None:
    """Writes what waits in a spool, or in each spool below a folder, into a folder that is new or empty.

    Raises:
        ConfigurationError: there is no spool, ``target`` has something in it, or a file cannot be read or
            written.
    """
    if target.is_dir() and any(target.iterdir()):
        raise ConfigurationError(f"{target} is not empty")
    found = [stored.path for stored in spools.find([path]) if stored.is_folder]
    if not found:
        raise ConfigurationError(f"{path} is not a spool")
    for spool in found:
        folder = target / spool.relative_to(path)
        lines = JsonLines(folder, max_bytes=2**63)
        count = 0
        try:
            for batch in reading.read(spool):
                lines.append(batch)
                count += 1
            lines.close()
            if count and (spool / ROUTES).exists():
                shutil.copyfile(spool / ROUTES, folder / ROUTES)
        except OSError as error:
            raise ConfigurationError(f"{spool} cannot be exported: {error}") from error
        typer.echo(f"{spool}: {count:,} request{'s' * (count != 1)} -> {folder}")
