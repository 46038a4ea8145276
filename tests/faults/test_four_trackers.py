"""Four trackers and backend ``file`` at once: the telling ends are the same for each."""

from __future__ import annotations

import json
import signal

import pytest

from tests.exporters.test_all_trackers import (
    backends,
    subjects,  # noqa: F401  # pyright: ignore[reportUnusedImport]
)
from tests.faults.checker import check
from tests.faults.evidence import FilePlace
from tests.faults.test_ends import LOG, TERMINATE
from tests.faults.test_machine import SET_BACK
from tests.faults.trial import Trial
from tests.support.subject import Subject

KILL = """
journal.wait_until_handed_over()
journal.log("later", range(300), pause=0.01)
journal.mark()
os.kill(os.getpid(), signal.SIGKILL)
"""
ROWS = {
    "an exception": (LOG + "raise RuntimeError('no more data')", "failed", 1),
    "SIGTERM": (LOG + TERMINATE, "killed", -signal.SIGTERM),
    "SIGKILL": (LOG + "import signal" + KILL, "killed", -signal.SIGKILL),
    "a clock that is set back": (SET_BACK, "finished", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize(("code", "status", "exit_code"), ROWS.values(), ids=ROWS)
def test_in_four_trackers(
    trial: Trial,
    subjects: dict[str, Subject],  # noqa: F811
    code: str,
    status: str,
    exit_code: int,
) -> None:
    everything = {**backends(trial.folder), "file": {}}
    trial.run(code, variables={"BACKENDS": json.dumps(everything)}, zero_code=False)
    places = {**subjects, "file": FilePlace(trial)}
    check(trial, places, status=status, code=exit_code, silent=exit_code == -signal.SIGKILL)
