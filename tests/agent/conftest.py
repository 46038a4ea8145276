"""Agents of a test's own: where they put their sockets, and that none is left."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.scripts import clean_environment

PATIENT = "100"
"""Seconds for what takes three on an idle machine."""


class Agents:
    """The agents that processes with :attr:`variables` start."""

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
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def wait_until_gone(self, seconds: float = 100) -> None:
        """Fails if one is left."""
        _, left = psutil.wait_procs(self.alive(), seconds)
        assert not left, f"agents are left:\n{self.log()}"

    def wait_until_gone_without_a_trace(self) -> None:
        """Fails if one is left, has said anything, or has left a file."""
        self.wait_until_gone()
        assert self.log() == ""
        assert self.files() == []

    def log(self) -> str:
        """What they have said."""
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


@pytest.fixture
def agents() -> Iterator[Agents]:
    # Not below pytest's own folder: a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="agents-") as folder:
        made = Agents(Path(folder))
        yield made
        _, left = psutil.wait_procs(made.alive(), 10)  # one that ends at this moment is none
        for process in left:
            process.kill()
        psutil.wait_procs(left)
        assert not left, f"agents are left:\n{made.log()}"
