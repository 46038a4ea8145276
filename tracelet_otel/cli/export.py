"""``tracelet-otel export``: spools as OTLP JSON lines, for whatever else reads these."""

from __future__ import annotations

import shutil
from pathlib import Path

import typer

from tracelet_otel.cli import outcome, spools
from tracelet_otel.delivery.spool import reading
from tracelet_otel.delivery.spool.json_lines import JsonLines
from tracelet_otel.delivery.spool.spool import ROUTES
from tracelet_otel.settings import ConfigurationError

_NO_LIMIT = 2**63


def export(spool: Path, target: Path) -> int:
    """Writes what waits in spools; the exit code.

    Args:
        spool: a spool, or a folder with spools, each of which becomes a folder of the same name.
        target: a folder that is new or empty.

    Raises:
        ConfigurationError: there is no spool, ``target`` has something in it, or a file cannot be read or
            written.
    """
    if target.is_dir() and any(target.iterdir()):
        raise ConfigurationError(f"{target} is not empty")
    sources = [source for source in spools.find([spool]) if source.is_folder]
    if not sources:
        raise ConfigurationError(f"{spool} is not a spool")
    for source in sources:
        folder = target / source.path.relative_to(spool)
        lines = JsonLines(folder, max_bytes=_NO_LIMIT)
        count = 0
        try:
            for batch in reading.read(source.path):
                lines.append(batch)
                count += 1
            lines.close()
            if count and (source.path / ROUTES).exists():
                shutil.copyfile(source.path / ROUTES, folder / ROUTES)
        except OSError as error:
            raise ConfigurationError(f"{source.path} cannot be exported: {error}") from error
        typer.echo(f"{source.path}: {count:,} request{'s' * (count != 1)} -> {folder}")
    return outcome.DONE
