"""What fails inside this package stays there for a user, and fails this project's tests."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.agents import Agents
from tests.support.scripts import FAILED, clean_environment, run_script
from tracelet_otel.foundation import guard

FAILING = """
from tracelet_otel.foundation.guard import Guard
with Guard("a place"):
    raise RuntimeError("broken")
print("trained")
"""


def test_a_failure_is_logged_and_kept_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "raises", False)
    monkeypatch.setattr(guard, "_last", {})
    for _ in range(2):
        with guard.Guard("a place"):
            raise RuntimeError("broken")
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "tracelet-otel: a place failed; training goes on: RuntimeError('broken')")
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_the_users_passes_through(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(guard, "raises", False)
    with pytest.raises(error), guard.Guard("a place"):
        raise error


def test_a_failure_in_a_test_is_raised() -> None:
    with pytest.raises(RuntimeError, match="broken"), guard.Guard("a place"):
        raise RuntimeError("broken")


def test_no_variable_makes_it_raise() -> None:
    environment = clean_environment(TRACELET_TEST_RAISE="1")
    command = [sys.executable, "-c", FAILING]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "trained\n")


def test_a_failure_in_a_script_fails_its_test(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="a place failed; training goes on"):
        run_script(tmp_path, FAILING)


@pytest.mark.parametrize(
    ("name", "says"), [("a.log", "a place failed; training goes on"), ("a.socket", "left files")]
)
def test_a_failure_in_an_agent_and_a_file_that_it_leaves_fail_its_test(
    tmp_path: Path, name: str, says: str
) -> None:
    folder = tmp_path / "tracelet-otel-0"
    folder.mkdir()
    (folder / name).write_text(f"a place {FAILED}: RuntimeError('broken')\n")
    with pytest.raises(AssertionError, match=says):
        Agents(tmp_path).finish()
