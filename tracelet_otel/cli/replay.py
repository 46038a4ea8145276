"""``tracelet-otel replay``: delivers what is on the disk."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from tracelet_otel.agent.address import SPOOL_PREFIX
from tracelet_otel.backends.names import FILE, SPOOLS, available
from tracelet_otel.cli import outcome, progress, spools, targets
from tracelet_otel.cli.sending import Sender
from tracelet_otel.cli.spools import Source
from tracelet_otel.delivery.otlp.forward import NAMES
from tracelet_otel.settings import ConfigurationError, resolve, state_folder


def replay(
    paths: Sequence[Path], names: Sequence[str], options: Sequence[str], *, remove: bool, timeout: float
) -> int:
    """Delivers spools and files to each backend; the exit code.

    Args:
        paths: spools, folders with spools, files of OTLP JSON lines. None of them: of the state folder what
            waits for each backend, and what backend ``file`` wrote.
        names: of the backends.
        options: ``backend.key=value``.
        remove: whether to remove spools that every backend has completely.
        timeout: seconds without progress after which a backend is given up.

    Raises:
        ConfigurationError: there is nothing at a path, or a backend cannot be used.
    """
    chosen = targets.make(names, options, with_file=False, command="replay")
    sources = _sources(paths, list(chosen))
    if not any(sources.values()):
        typer.echo(f"nothing to replay in {_spools()}")
        return outcome.DONE
    stop = threading.Event()
    senders = [
        Sender(
            name,
            target,
            spools.parts(sources[name], name),
            total=sum(source.size for source in sources[name]),
            timeout=timeout,
            stop=stop,
        )
        for name, target in chosen.items()
    ]
    interrupted = progress.watch(senders, stop)
    code = outcome.report(
        senders, interrupted=interrupted, again="what is left stays where it is; run the command again"
    )
    _say_what_is_odd(senders, _distinct(sources))
    if remove:
        for source in _distinct(sources):
            if source.is_folder:
                _remove(source, [sender for sender in senders if source in sources[sender.backend]])
    return code


def _sources(paths: Sequence[Path], names: Sequence[str]) -> dict[str, list[Source]]:
    """What each backend gets; backends that get the same spool share its source."""
    if paths:
        found = spools.find(paths)
        return dict.fromkeys(names, found)
    folder = _spools()
    if not folder.is_dir():
        return {name: [] for name in names}
    try:
        found = spools.find([folder])
    except ConfigurationError:  # no spool in it
        found = []
    return {name: [s for s in found if {name, FILE} & {*s.backends}] for name in names}


def _spools() -> Path:
    return state_folder(resolve().spool_dir) / SPOOLS


def _distinct(sources: Mapping[str, Sequence[Source]]) -> list[Source]:
    return list({source.path: source for found in sources.values() for source in found}.values())


def _say_what_is_odd(senders: Sequence[Sender], sources: Sequence[Source]) -> None:
    skipped = [source for source in sources if source.skipped]
    if skipped:
        count = sum(source.skipped for source in skipped)
        typer.echo(f"skipped {count:,} damaged request{'s' * (count != 1)} in {skipped[0].path}")
    torn = [source for source in sources if source.torn]
    if torn:
        typer.echo(f"left out the last request in {torn[0].path}: it is incomplete")
    unended = sorted({run for sender in senders for run in sender.target.open_runs()})
    if unended:
        more = f" and {len(unended) - 1} more" if len(unended) > 1 else ""
        typer.echo(f"no end of a run in this data, so it stays open: {unended[0]}{more}")


def _remove(source: Source, senders: Sequence[Sender]) -> None:
    waited_for = {*available(), *NAMES} - {FILE}
    reason = ""
    for sender in senders:
        if sender.error or not sender.ended.is_set() or not sender.sources.get(str(source.path)):
            reason = f"{sender.backend} does not have all of it"
    reason = reason or spools.kept_because(source, [sender.backend for sender in senders], waited_for)
    if reason:
        typer.echo(f"kept {source.path}: {reason}")
        return
    try:
        shutil.rmtree(source.path)
    except OSError as error:
        typer.echo(f"kept {source.path}: {error}")
        return
    typer.echo(f"removed {source.path}")
    parent = source.path.parent
    if source.pid is not None and not any(parent.iterdir()):
        parent.rmdir()
    elif parent.name.startswith(SPOOL_PREFIX) and not any(path.is_dir() for path in parent.iterdir()):
        shutil.rmtree(parent)  # what an agent knew of its runs
