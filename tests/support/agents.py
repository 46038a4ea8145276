"""Agents of a test's own: where they put their sockets, and that none is left."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil

from tests.support.scripts import check_failures, clean_environment

PATIENT = "100"
"""Seconds for what takes three on an idle machine."""


class Agents:
    """The agents that processes with :attr:`variables` start.

    Args:
        temporary: the temporary folder of these processes. Its path is short, since a socket's is limited.
    """

    def __init__(self, temporary: Path) -> None:
        self.variables = {
            "TMPDIR": str(temporary),
            "TRACELET_ISOLATION": "process",
            "TRACELET_SHUTDOWN_TIMEOUT": PATIENT,
        }
        self.folder = temporary

    def environment(self, **extra: str) -> dict[str, str]:
        """For a process."""
        return clean_environment(**{**self.variables, **extra})

    def alive(self) -> list[psutil.Process]:
        """Those that run."""
        if not self.files():  # looking at all processes takes a while, and an agent has files until it ends
            return []
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def wait_until_gone(self, seconds: float = 100) -> None:
        """Fails if one is left."""
        _, left = psutil.wait_procs(self.alive(), seconds)
        assert not left, f"agents are left:\n{self.log()}"

    def wait_until_gone_without_a_trace(self) -> None:
        """Fails if one is left, has logged anything, or has left a file."""
        self.wait_until_gone()
        assert self.log() == ""
        assert self.files() == []

    def finish(self, seconds: float = 90) -> None:
        """Ends all. Fails if one had to be killed, has left a file, or has logged a failure of ours.

        One that was started while another was about to end, and that no process then uses, ends after 10 s.
        """
        _, left = psutil.wait_procs(self.alive(), seconds)
        for process in left:
            process.send_signal(signal.SIGABRT)  # its log then says where it is
        _, deaf = psutil.wait_procs(left, 10)
        for process in deaf:
            process.kill()
        psutil.wait_procs(deaf)
        assert not left, f"agents are left:\n{self.log()}"
        check_failures(self.log())
        kept = [name for name in self.files() if not name.endswith(".log")]
        assert not kept, f"agents have left files:\n{kept}"

    def log(self) -> str:
        """What they have logged."""
        return "".join(path.read_text() for path in self.folder.glob("tracelet-otel-*/*.log"))

    def files(self) -> list[str]:
        """What is left of them."""
        return [path.name for path in self.folder.glob("tracelet-otel-*/*")]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            is_agent = "tracelet_otel.agent.server" in " ".join(process.cmdline())
            return is_agent and process.environ().get("TMPDIR") == str(self.folder)
        except psutil.Error:  # it has just ended
            return False
