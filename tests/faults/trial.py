"""Runs the script of a row in a process of its own, and keeps what there was to see of it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.agents import Agents
from tests.support.scripts import script_command, write_script

RUN_ID = "row"
DEADLINE_S = 10.0
"""The default of ``TRACELET_SHUTDOWN_TIMEOUT``, and what an agent that starts gets at least."""
SLACK_S = 10.0
"""What a busy machine may add to it: the start of a process, a closing line."""
_LONGEST_S = 90.0


class Trial:
    """A row's script, with isolation ``process``, into MLflow and backend ``file``.

    Args:
        folder: with everything that it writes, the trackers' data too.
        agents: the test's.
    """

    def __init__(self, folder: Path, agents: Agents) -> None:
        self.folder = folder
        self.agents = agents
        self.variables = {
            "TRACELET_ISOLATION": "process",
            "TRACELET_RUN_ID": RUN_ID,
            "TRACELET_SHUTDOWN_TIMEOUT": f"{DEADLINE_S:g}",
            "TMPDIR": str(agents.folder),
            "HOME": str(folder),
            "XDG_STATE_HOME": "",
            "OTEL_METRICS_EXPORTER": "mlflow,file",
        }
        self.state = folder / ".local" / "state" / "tracelet-otel"
        self.code: int | None = None
        self.ended_at = 0.0
        """Of ``time.monotonic()``."""
        self.out = ""
        self.err = ""
        self._process: subprocess.Popen[str] | None = None

    def start(
        self,
        code: str,
        *,
        variables: Mapping[str, str] | None = None,
        zero_code: bool = True,
        module: Sequence[str] = (),
        within: Sequence[str] = (),
    ) -> None:
        """Starts a script.

        Args:
            code: the script's, which may be indented.
            variables: more of them.
            zero_code: whether ``opentelemetry-instrument`` starts it.
            module: arguments of Python that come before the script.
            within: a command that runs the command.
        """
        journal_copy = self.folder / "journal.py"
        if not journal_copy.exists():
            shutil.copy(Path(__file__).with_name("journal.py"), journal_copy)
        script = write_script(self.folder, code)
        command = script_command(script, zero_code=zero_code)
        place = command.index(str(script))
        command = [*within, *command[:place], *module, *command[place:]]
        environment = self.agents.environment(**{**self.variables, **(variables or {})})
        with (self.folder / "stderr").open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={name: value for name, value in environment.items() if value},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def run(self, code: str, **how: Any) -> None:
        """Starts a script, see :meth:`start`, and waits for its end."""
        self.start(code, **how)
        self.wait()

    @property
    def process(self) -> subprocess.Popen[str]:
        """The script's."""
        assert self._process is not None, "start() comes first"
        return self._process

    def read_line(self) -> str:
        """The next line that the script prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it has ended: {(self.folder / 'stderr').read_text()}"
        return line.strip()

    def send(self, number: signal.Signals) -> float:
        """Sends a signal to the script; when, of ``time.monotonic()``."""
        now = time.monotonic()
        self.process.send_signal(number)
        return now

    def wait(self) -> None:
        """Waits for the end of the script, then for that of its agents."""
        try:
            self.process.wait(_LONGEST_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            raise
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        self.ended_at = time.monotonic()
        self.code = self.process.returncode
        assert self.process.stdout is not None
        with self.process.stdout:
            self.out += self.process.stdout.read()
        self.agents.wait_until_gone()
        self.err = (self.folder / "stderr").read_text()

    def replay(self, backend: str, variables: Mapping[str, str] | None = None) -> str:
        """Delivers what waits for a backend, as a user does; what the command says."""
        done = subprocess.run(
            [sys.executable, "-m", "tracelet_otel.cli", "replay", "--backend", backend, "--remove"],
            cwd=self.folder,
            env=self.agents.environment(**{**self.variables, **(variables or {})}),
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr
