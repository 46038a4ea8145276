"""Which points and records are in a run's companion files: said once more, they would be there twice."""

from __future__ import annotations

from tracelet_otel.tracker.companion import PREFIX
from tracelet_otel.tracker.companion_lines import identities, identity
from tracelet_otel.tracker.interface import Outcome, PointAside, RecordAside
from tracelet_otel_exporters.aim import files as aim_files
from tracelet_otel_exporters.aim.runs import OpenRun


def keep_new(run: OpenRun, outcome: Outcome) -> None:
    """Leaves in ``outcome.aside`` what is not in the run's companion files, and notes it."""
    if not outcome.aside:
        return
    if run.aside is None:
        run.aside = identities(aim_files.read_all(run, PREFIX)) if run.is_resumed else set()
    new: list[PointAside | RecordAside] = []
    for line in outcome.aside:
        if (known := identity(line)) not in run.aside:
            run.aside.add(known)
            new.append(line)
    outcome.aside = new
