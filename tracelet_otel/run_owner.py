"""What the open run of a process tells the processes below it, through their environment."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

RUN_ID_VARIABLE = "TRACELET_RUN_ID"
RUN_OWNER_VARIABLE = "TRACELET_RUN_OWNER"
"""What children have to know of the open run of a process; see :class:`RunOwner`."""


class RunOwner(NamedTuple):
    """What :data:`RUN_OWNER_VARIABLE` says. We set it ourselves."""

    process: int = 0
    """The id of the process that opened the run and ends it; 0: there is none."""
    run_id: str = ""
    name: str = ""
    """The run's name."""
    first_folder: str = ""
    """The first folder that a writer wrote the run to, absolute; empty while there is none."""
    folder_file: str = ""
    """The file in which the first folder will be."""
    family: str = ""
    """What the run and its child runs have in common; empty while it has none."""
    launch: str = ""
    """What the launcher says of the process that told this; see
    :func:`tracelet_otel.resource.launcher.fingerprint`."""


def run_owner() -> RunOwner:
    """The owner of the run that this process and its children write."""
    try:
        return RunOwner(*json.loads(os.environ.get(RUN_OWNER_VARIABLE) or "[]"))
    except (ValueError, TypeError):  # not set by this version
        return RunOwner()


def is_of_another_run(*, nested: bool) -> bool:
    """Whether we set :data:`RUN_ID_VARIABLE` ourselves, for children, and this process's run is another.

    Args:
        nested: whether a child process has a run of its own.
    """
    owner = run_owner()
    if owner.process in (0, os.getpid()):
        return owner.process != 0
    return nested and owner.run_id == os.environ.get(RUN_ID_VARIABLE, "").strip()
