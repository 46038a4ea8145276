"""The folders in which an agent keeps what it has not delivered."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from filelock import FileLock

from tracelet_otel.backends.names import SPOOLS
from tracelet_otel.foundation.locks import acquire_folder
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.settings import ConfigurationError

_MOST_NEIGHBOURS: Final = 100
_log: Final = get_logger("tracelet_otel.agent")


def lock_spools(folder: Path) -> tuple[Path, FileLock]:
    """The folder and its lock, or a folder beside it where another agent has this one.

    That happens to processes that share a state folder and differ in their temporary folder.

    Raises:
        ConfigurationError: other agents have them all.
        OSError: the folder cannot be written to.
    """
    for number in range(1, _MOST_NEIGHBOURS):
        neighbour = folder if number == 1 else folder.with_name(f"{folder.name}.{number}")
        if (lock := acquire_folder(neighbour)) is not None:
            return neighbour, lock
    raise ConfigurationError(f"{_MOST_NEIGHBOURS} agents use {folder} and the folders beside it")


def writable_state(state: Path, temporary: Path) -> tuple[Path, str]:
    """The state folder; if it cannot be written to, a temporary one and a warning that says why."""
    folder = state / SPOOLS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return state, ""
    except OSError as error:
        warning = f"{folder} cannot be written to, {temporary / 'state'} takes its place: {error}"
        _log.warning("%s", warning)
        return temporary / "state", warning
