"""The bars of ``import`` and ``replay``: on a terminal, and nowhere else."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Literal

from tests.cli.conftest import POINTS, Backend, Logged
from tests.support.scripts import clean_environment

BAR = "\u2501"
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(
    stream: Literal["stdout", "stderr"], tmp_path: Path, *arguments: str
) -> tuple[int, str, str]:
    """Runs a command with one of its streams on a terminal and the other one in a pipe.

    Returns:
        Its exit code, what the terminal got, and what the pipe got.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    environment = clean_environment(XDG_STATE_HOME=str(tmp_path / "state"), TERM="xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        environment.pop(name, None)
    stdout, stderr = (its if name == stream else subprocess.PIPE for name in ("stdout", "stderr"))
    command = [sys.executable, "-m", "tracelet_otel.cli", *arguments]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True
    ) as running:
        os.close(its)
        shown = b""
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:  # EIO: nobody has the other end any more
            pass
        finally:
            os.close(ours)
        piped = running.stderr if stream == "stdout" else running.stdout
        assert piped is not None
        said = piped.read()
    return running.returncode, shown.decode(), said


def check_bar(shown: str, name: str, status: str) -> None:
    """One bar was drawn, in one place, and it ended full."""
    lines = [line for line in _ESCAPE.sub("", shown).replace("\r", "\n").splitlines() if line.strip()]
    assert len(lines) > 1, shown  # it was there while the command worked
    assert all(line.startswith(f"{name} ") and BAR in line for line in lines), shown
    *_, last = lines
    match = re.fullmatch(rf"{name} +({BAR}+) +([\d.,]+)/([\d.,]+) (?:bytes|[KM]iB) +\S+ *(.*?) *", last)
    assert match is not None, last
    assert (match[2], match[4]) == (match[3], status), last
    assert "\x1b[?25l" in shown  # the cursor was hidden
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # and is back


def test_on_a_terminal_there_is_a_bar_and_stdout_stays_clean(
    logged: Logged, mlflow_backend: Backend, tmp_path: Path
) -> None:
    spool = tmp_path / "out"
    arguments = ["--one-run", "-b", "file", "--option", f"file.path={spool}"]
    code, shown, out = on_a_terminal("stderr", tmp_path, "import", str(logged.folder / "logs"), *arguments)
    said = f"file: delivered {POINTS} points and 10 records -> {spool}\n1 of 1 runs read\n"
    assert (code, out) == (0, said), shown
    check_bar(shown, "file", "1 of 1 runs")

    code, shown, out = on_a_terminal("stderr", tmp_path, "replay", str(spool), *mlflow_backend.arguments)
    assert code == 0, shown
    assert re.fullmatch(f"mlflow: delivered {POINTS} points and 10 records -> .*\n", out)
    check_bar(shown, "mlflow", "")

    # Where stderr goes to a file there is none, whatever stdout is.
    code, shown, err = on_a_terminal("stdout", tmp_path, "replay", str(spool), *mlflow_backend.arguments)
    assert code == 0, err
    assert shown.startswith(f"mlflow: delivered {POINTS} points and 10 records -> ")
    assert shown.count("\n") == 1
    for text in (shown, err):
        assert BAR not in text
        assert "\x1b" not in text
    # Nothing at all, but for the line that one gets every ten seconds on a machine that is slow.
    assert all(re.match(r"mlflow: \S+ \w+ of \S+ \w+ *$", line) for line in err.splitlines()), err
