"""The file with a process's last word is gone with the process, whenever that is killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.agents import Agents
from tests.support.scripts import run_script


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["client.launch", "last_word.say_in", "last_word.withdraw"])
def test_a_process_killed_at_any_moment_leaves_no_file(
    tmp_path: Path, database: Path, agents: Agents, moment: str
) -> None:
    code = f"""
    import os, signal
    import tracelet_otel
    from tracelet_otel.agent import client, last_word
    from tracelet_otel.agent.last_word import say_in
    def die(*arguments):
        if {moment!r} == "last_word.say_in":  # the agent knows the process, and the file is there
            say_in(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    {moment} = die
    tracelet_otel.configure(backends="mlflow")
    tracelet_otel.log_scalar("loss", 1.0, 1)
    """
    done = run_script(tmp_path, code, zero_code=False, variables=agents.variables)
    assert done.returncode == -signal.SIGKILL, done.stderr
    agents.wait_until_gone()
    assert [name for name in agents.files() if not name.endswith(".log")] == []
