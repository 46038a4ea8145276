"""Threads, loops and the interpreter's own end."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.checker import check
from tests.faults.evidence import Place
from tests.faults.trial import DEADLINE_S, Trial

ROWS = {
    "threads that log while shutdown() runs": """
import threading, time
import tracelet_otel
import journal
def log(n):
    journal.log(f"thread{n}", range(10**9), pause=0.0005)
for n in range(4):
    threading.Thread(target=log, args=(n,), daemon=True).start()
time.sleep(0.5)
journal.mark()
tracelet_otel.shutdown()
""",
    "threads that nobody joins": """
import threading
import journal
for n in range(4):
    threading.Thread(target=journal.log, args=(f"thread{n}", range(1_000))).start()
""",
    "daemon threads that log to the end": """
import threading, time
import journal
def log(n):
    journal.log(f"thread{n}", range(10**9), pause=0.001)
for n in range(4):
    threading.Thread(target=log, args=(n,), daemon=True).start()
time.sleep(0.5)
journal.mark()
""",
    "atexit": """
import atexit
import journal
journal.log("loss", range(100))
atexit.register(journal.log, "atexit", range(100))
""",
    "__del__ at the interpreter's end": """
import journal, tracelet_otel
journal.log("loss", range(100))
class Late:
    def __del__(self, log=tracelet_otel.log_scalar):
        log("late", 1.0, 0)  # the run has ended: nothing is recorded, and nothing raised
late = Late()
""",
    "an asyncio loop": """
import asyncio
import journal
async def work(n):
    for step in range(100):
        journal.log(f"task{n}", [step])
        await asyncio.sleep(0)
async def main():
    await asyncio.gather(*(work(n) for n in range(10)), asyncio.to_thread(journal.log, "thread", range(100)))
asyncio.run(main())
""",
    "an exception in a thread": """
import threading
import journal
journal.log("loss", range(100))
def work():
    journal.log("thread", range(100))
    raise ValueError("of a thread")
thread = threading.Thread(target=work)
thread.start()
thread.join()
""",
}


@pytest.mark.parametrize("code", ROWS.values(), ids=ROWS)
def test_points_of(trial: Trial, places: dict[str, Place], code: str) -> None:
    trial.run(code)
    check(trial, places)
    said = [line for line in trial.err.splitlines() if not line.startswith("tracelet-otel: ")]
    assert not said or "of a thread" in said[-1], trial.err


SIGNALLED: dict[str, tuple[str, int, str]] = {
    "four threads": (
        """
import threading, time
import journal
def log(n):
    journal.log(f"thread{n}", range(10**9), pause=0.0005)
for n in range(4):
    threading.Thread(target=log, args=(n,)).start()
time.sleep(1)
print("ready", flush=True)
""",
        -signal.SIGTERM,
        "killed",
    ),
    "a tight loop": (
        """
import journal
journal.log("loss", range(2_000))
print("ready", flush=True)
journal.log("loop", range(10**9))
""",
        -signal.SIGTERM,
        "killed",
    ),
    "an asyncio loop": (
        """
import asyncio
import journal
async def main():
    journal.log("loss", range(100))
    print("ready", flush=True)
    for step in range(10**9):
        journal.log("loop", [step])
        await asyncio.sleep(0.001)
asyncio.run(main())
""",
        -signal.SIGTERM,
        "killed",
    ),
    "an asyncio loop with a handler of its own": (
        """
import asyncio, signal
import journal
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    journal.log("loss", range(100))
    print("ready", flush=True)
    await stop.wait()
    journal.log("after", range(100))
asyncio.run(main())
""",
        0,
        "finished",  # nobody but the loop is told of the signal
    ),
}


@pytest.mark.parametrize(("code", "exit_code", "status"), SIGNALLED.values(), ids=SIGNALLED)
def test_sigterm_to(trial: Trial, places: dict[str, Place], code: str, exit_code: int, status: str) -> None:
    trial.start(code)
    assert trial.read_line() == "ready"
    sent = trial.send(signal.SIGTERM)
    trial.wait()
    check(trial, places, status=status, code=exit_code, certain_until=sent)


def test_sigterm_twice(trial: Trial, places: dict[str, Place]) -> None:
    """The second one ends the wait for a tracker that is away."""
    code = """
import time
import journal
journal.log("loss", range(100))
journal.wait_until_handed_over()
print("ready", flush=True)
time.sleep(60)
"""
    trial.start(code, variables={"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"})
    assert trial.read_line() == "ready"
    first = trial.send(signal.SIGTERM)
    while trial.process.poll() is None:
        time.sleep(0.2)
        trial.send(signal.SIGTERM)
    assert time.monotonic() - first < DEADLINE_S / 2
    trial.wait()
    trial.replay("mlflow")
    mlflow = {"mlflow": places["mlflow"]}
    check(trial, mlflow, status="killed", code=-signal.SIGTERM, silent=True, certain_until=first)
