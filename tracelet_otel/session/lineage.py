"""Whether this process writes into the run of a process above it, or a run of its own below that one."""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

from tracelet_otel.resource import launcher
from tracelet_otel.resource.launcher import Launch
from tracelet_otel.run_owner import RunOwner, run_owner
from tracelet_otel.settings import Settings


class Lineage(NamedTuple):
    """What a process above, and the launcher, say of this process's run."""

    launch: Launch
    owner: RunOwner = RunOwner()
    """Of the run that this process joins; process 0: it joins none."""
    parent: str = ""
    """The id of the run whose child this process's run is."""
    family: str = ""

    @property
    def joins(self) -> bool:
        """Whether the run is that of a process above, which ends it."""
        return self.owner.process != 0


@cache
def _inherited(process: int) -> RunOwner:
    """What this process was started with: later its own run is in the variable."""
    owner = run_owner()
    return RunOwner() if owner.process == process else owner


def of_process(settings: Settings) -> Lineage:
    """The lineage of this process's run, by the setting ``child_runs``.

    With ``nested`` the processes that a launcher starts together are one child run, by the launcher's id of
    it. A rank without such an id belongs to the run of the rank that started it, and joins it.
    """
    launch, owner, above = launcher.detect(), run_owner(), _inherited(os.getpid())
    if owner.process not in (0, os.getpid()) and owner.run_id == settings.run_id:
        return Lineage(launch, owner)
    if settings.child_runs != "nested" or not above.process:
        return Lineage(launch)
    if launch.rank is not None and not (launch.run_id or settings.run_id):
        return Lineage(launch._replace(run_id=above.run_id), above)
    if launch.run_id and (launch.run_id == above.run_id or above.launch == launcher.fingerprint()):
        # The variables of a launcher that started a process above.
        launch = Launch()
    return Lineage(launch, parent=above.run_id, family=above.family)
