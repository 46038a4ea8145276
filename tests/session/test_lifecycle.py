"""How a process ends: what it logged is delivered, and its end is its own. See also tests/faults."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import mlflow_content as mlflow
from tests.support.scripts import clean_environment, run_script, script_command, write_script

LOG = """
import tracelet_otel
for step in range(100):
    tracelet_otel.log_scalar("loss", step / 7, step)
"""


# A process that a shell started in the background ignores SIGINT.
INTERRUPT = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
"""


def check(database: Path, status: str, points: int = 100) -> None:
    (run,) = mlflow.runs(database)
    assert run.status == status
    logged = mlflow.points(database)["loss"]
    assert [(point.step, point.value) for point in logged] == [(step, step / 7) for step in range(points)]


@pytest.mark.in_thread("tests/faults has the ends of a process with the default isolation")
@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [
        ("", "FINISHED", 0),
        ("raise RuntimeError('no more data')", "FAILED", 1),
        ("import sys; sys.exit(3)", "FAILED", 3),
        ("exit(0)", "FINISHED", 0),
        ("import sys; sys.exit('message')", "FAILED", 1),
        ("import sys; sys.excepthook = lambda *a: None; 1 / 0", "FAILED", 1),
        ("raise KeyboardInterrupt", "KILLED", -signal.SIGINT),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGTERM); import time; time.sleep(60)",
            "KILLED",
            -15,
        ),
        (INTERRUPT, "KILLED", -2),
    ],
)
def test_every_end_delivers_and_has_its_status(
    tmp_path: Path, database: Path, ending: str, status: str, code: int
) -> None:
    with_us = run_script(tmp_path, LOG + ending)
    assert with_us.returncode == code, with_us.stderr
    check(database, status)
    assert with_us.stderr.count("tracelet-otel: run train-") == 1
    assert with_us.stderr.count("captured 100 points, delivered all") == 1
    without = run_script(tmp_path, ending, zero_code=False)
    assert (without.returncode, without.stdout) == (with_us.returncode, with_us.stdout)
    ours = [line for line in with_us.stderr.splitlines() if not line.startswith("tracelet-otel: ")]
    assert len(ours) == len(without.stderr.splitlines())  # the traceback, and no line more


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_users_own_handler_runs_and_decides_the_exit_code(
    tmp_path: Path, database: Path, when: str
) -> None:
    handler = """
import signal, sys, os, time
def stop(signum, frame):
    print("saving a checkpoint", flush=True)
    sys.exit(17)
signal.signal(signal.SIGTERM, stop)
"""
    configure = "import tracelet_otel; tracelet_otel.configure()\n"
    start = handler + configure if when == "before" else configure + handler
    check_handler = "\nassert signal.getsignal(signal.SIGTERM) is stop\n" if when == "after" else "\n"
    code = start + LOG + check_handler
    done = run_script(tmp_path, code + "os.kill(os.getpid(), 15); time.sleep(60)", zero_code=False)
    assert (done.returncode, done.stdout) == (17, "saving a checkpoint\n"), done.stderr
    check(database, "KILLED")


def test_a_handler_that_chains_ours_keeps_its_choice(tmp_path: Path, database: Path) -> None:
    code = (
        """
import os, signal, time
ours = signal.getsignal(signal.SIGTERM)
stopped = []
def stop(signum, frame):
    stopped.append(signum)
    ours(signum, frame)  # as Lightning does with a handler that it finds
signal.signal(signal.SIGTERM, stop)
"""
        + LOG
        + """
os.kill(os.getpid(), 15)
while not stopped:
    time.sleep(0.01)
print("cleaned up")
"""
    )
    done = run_script(tmp_path, code)
    assert (done.returncode, done.stdout) == (0, "cleaned up\n"), done.stderr
    check(database, "KILLED")


@pytest.mark.parametrize("zero_code", [True, False])
def test_a_process_that_logs_nothing_leaves_nothing(tmp_path: Path, zero_code: bool) -> None:
    code = "" if zero_code else "import tracelet_otel; tracelet_otel.configure()"
    done = run_script(tmp_path, code, zero_code=zero_code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} == {"train.py"}


def test_a_subprocess_that_logs_joins_the_run_and_leaves_it_open(tmp_path: Path, database: Path) -> None:
    write_script(tmp_path, "import tracelet_otel; tracelet_otel.log_scalar('child', 1.0, 1)", name="child.py")
    code = (
        LOG
        + """
import subprocess, sys
subprocess.run([sys.executable, "child.py"], check=True)
import sqlite3
print(sqlite3.connect("mlflow.db").execute("select status from runs").fetchall())
"""
    )
    done = run_script(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[('RUNNING',)]\n"
    check(database, "FINISHED")
    assert len(mlflow.points(database)["child"]) == 1


def test_a_closed_stdout_and_stderr_change_nothing(tmp_path: Path, database: Path) -> None:
    done = run_script(tmp_path, "import os\nos.close(1); os.close(2)\n" + LOG)
    assert (
        done.returncode
        == run_script(tmp_path, "import os; os.close(1); os.close(2)", zero_code=False).returncode
    )
    check(database, "FINISHED")


def test_sigterm_in_a_long_c_call_still_ends_the_process(tmp_path: Path, database: Path) -> None:
    code = (
        LOG
        + """
print("ready", flush=True)
pow(3, 15_000_000)  # one C call, seconds, in which no Python handler runs
"""
    )
    script = write_script(tmp_path, code)
    with subprocess.Popen(
        script_command(script), cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM


def test_an_interrupt_at_the_exit_still_delivers(tmp_path: Path, database: Path) -> None:
    code = (
        LOG
        + """
import atexit, os, signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(lambda: threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start())
"""
    )
    done = run_script(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert "still delivering; interrupt again to give up" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(mlflow.points(database)["loss"]) == 100


def test_sys_exit_is_pickled_as_ever(tmp_path: Path) -> None:
    code = """
    import copy, pickle, sys
    assert pickle.loads(pickle.dumps(sys.exit)) is sys.exit
    assert copy.deepcopy(sys.exit) is sys.exit
    """
    done = run_script(tmp_path, code)
    assert (done.returncode, done.stderr) == (0, "")


def test_configure_and_shutdown_leave_nothing_behind(tmp_path: Path) -> None:
    code = """
    import os, threading
    import tracelet_otel
    def held():
        return len(os.listdir("/proc/self/fd")), threading.active_count()
    for cycle in range(30):
        tracelet_otel.configure("console")
        tracelet_otel.shutdown()
        if cycle == 5:
            before = held()
    import time
    def more():  # less is no leak: a thread may have been about to end when it was counted before
        return any(now > then for now, then in zip(held(), before))
    deadline = time.monotonic() + 10
    while more() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not more(), (held(), before)
    """
    done = run_script(tmp_path, code, zero_code=False)
    assert done.returncode == 0, done.stderr
