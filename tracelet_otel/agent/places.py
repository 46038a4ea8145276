"""Where an agent keeps what it has not delivered."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from tracelet_otel.backends.names import SPOOLS
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.gateway.folder_lock import FolderLock, is_held

_MOST_NEIGHBOURS: Final = 100
_log: Final = get_logger("tracelet_otel.agent")


def held(folder: Path) -> tuple[Path, FolderLock]:
    """The folder, or one beside it if another agent has it: processes may differ in their temporary folder.

    Raises:
        ConfigurationError: none of them can be had.
    """
    for number in range(2, _MOST_NEIGHBOURS):
        if not is_held(folder):
            break
        folder = folder.with_name(f"{folder.name.partition('.')[0]}.{number}")
    return folder, FolderLock(folder)


def writable(state: Path, temporary: Path) -> tuple[Path, str]:
    """The state folder, or a temporary one and why."""
    folder = state / SPOOLS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return state, ""
    except OSError as error:
        warning = f"{folder} cannot be written to, {temporary / 'state'} takes its place: {error}"
        _log.warning("%s", warning)
        return temporary / "state", warning
