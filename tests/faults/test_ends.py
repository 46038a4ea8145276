"""How a process ends."""

from __future__ import annotations

import signal
from typing import NamedTuple

import pytest

from tests.faults.checker import check
from tests.faults.evidence import Place
from tests.faults.trial import Trial
from tests.support.scripts import run_script

LOG = """
import os, sys, threading, time
import journal
journal.log("loss", range(100))
"""


class End(NamedTuple):
    """What a script does at its end, and what it leaves."""

    code: str
    status: str
    exit_code: int


# A process that a shell started in the background ignores SIGINT.
INTERRUPT = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
"""
TERMINATE = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); import time; time.sleep(60)"
ENDS = {
    "its end": End("", "finished", 0),
    "exception": End("raise RuntimeError('no more data')", "failed", 1),
    "exception and an excepthook": End("import sys; sys.excepthook = lambda *a: None; 1 / 0", "failed", 1),
    "sys.exit(3)": End("import sys; sys.exit(3)", "failed", 3),
    "sys.exit(text)": End("import sys; sys.exit('message')", "failed", 1),
    "exit(0)": End("exit(0)", "finished", 0),
    "KeyboardInterrupt": End("raise KeyboardInterrupt", "killed", -signal.SIGINT),
    "SIGTERM": End(TERMINATE, "killed", -signal.SIGTERM),
    "SIGINT": End(INTERRUPT, "killed", -signal.SIGINT),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_an_end(trial: Trial, places: dict[str, Place], end: End) -> None:
    trial.run(LOG + end.code)
    check(trial, places, status=end.status, code=end.exit_code)
    assert trial.err.count("tracelet-otel: run train-") == 1
    without = run_script(trial.folder, end.code, zero_code=False)
    assert (without.returncode, without.stdout) == (trial.code, trial.out)
    ours = [line for line in trial.err.splitlines() if not line.startswith("tracelet-otel: ")]
    assert len(ours) == len(without.stderr.splitlines())  # the traceback, and no line more


SILENT = {
    "SIGKILL": ("os.kill(os.getpid(), 9)", -signal.SIGKILL),
    "os._exit": ("os._exit(3)", 3),
    "SIGSEGV": ("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV),
}


@pytest.mark.parametrize(("end", "code"), SILENT.values(), ids=SILENT)
def test_an_end_without_a_word(trial: Trial, places: dict[str, Place], end: str, code: int) -> None:
    more = """
journal.wait_until_handed_over()
journal.log("later", range(300), pause=0.01)
journal.mark()
"""
    trial.run(LOG + more + end)
    check(trial, places, status="killed", code=code, silent=True)
