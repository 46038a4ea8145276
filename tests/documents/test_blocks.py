"""Every block of code of the documents runs as it is written, but for those of a list with reasons."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.documents.not_run import NOT_RUN, reason
from tests.documents.pages import ALL, Block
from tests.support import mlflow_content as mlflow
from tests.support.clearml_server import ClearMLServer
from tests.support.scripts import check_failures, clean_environment, run_script, write_script

FILE = re.compile(r"# (\w+\.(?:py|yaml))\n")
RUNS = {"console", "python", "sh"}
RUNNABLE = [block for block in ALL if block.kind in RUNS and not reason(block.page, block.code)]
SCRIPT = """
from tensorboardX import SummaryWriter

with SummaryWriter("logs") as writer:
    for step in range(10):
        writer.add_scalar("loss", 1 / (step + 1), step)
"""
"""A reader's own train.py, for pages that have none."""


def test_every_reason_is_of_one_block() -> None:
    for page, reasons in NOT_RUN.items():
        codes = [block.code for block in ALL if block.page == page and block.kind in RUNS]
        for start in reasons:
            assert sum(code.startswith(start) for code in codes) == 1, (page, start)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", sorted({block.page for block in RUNNABLE}))
def test_blocks_run(tmp_path: Path, database: Path, page: str) -> None:
    """All of a page in one folder and, as a reader would, in one shell; what is no file is one script."""
    blocks = [block for block in RUNNABLE if block.page == page]
    if "aim" in page + "".join(block.code for block in blocks) and importlib.util.find_spec("aim") is None:
        pytest.skip("there is no AIM for this Python")
    write_script(tmp_path, SCRIPT)
    for block in ALL:
        if (block.page, block.kind) == (page, "yaml") and (name := FILE.match(block.code)):
            write_script(tmp_path, block.code, name[1])
    parts: list[str] = []
    for block in blocks:
        if block.kind == "python" and (name := FILE.match(block.code)):
            write_script(tmp_path, block.code, name[1])
        elif block.kind == "python":
            parts.append(block.code)
    if parts:
        done = run_script(tmp_path, "\n".join(parts), zero_code=False, name="page.py")
        assert done.returncode == 0, done.stderr
        assert_nothing_went_wrong(done.stderr)
    run_commands(tmp_path, [block for block in blocks if block.kind != "python"])

    expected = (
        {"FAILED", "FINISHED"} if any("exit code 1" in block.code for block in blocks) else {"FINISHED"}
    )
    runs = mlflow.runs(database)
    assert {run.status for run in runs} in (expected, set())
    assert all(mlflow.points(database, run.id) for run in runs)


def run_commands(folder: Path, blocks: list[Block]) -> None:
    """Runs the commands in one shell; the other lines of the blocks are in its output, in this order."""
    commands = [command for block in blocks for command in block.commands]
    expected = [line for block in blocks for line in block.code.splitlines() if not line.startswith("$ ")]
    with closing(ClearMLServer()) as server:
        environment = clean_environment(**server.variables())
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-e", "-c", "\n".join(commands)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    check_failures(done.stdout)
    assert_nothing_went_wrong(done.stdout)
    printed = iter([general(line) for line in done.stdout.splitlines()])
    for line in expected:
        assert general(line) in printed, f"{line}\n-- is not, or not in this order, in --\n{done.stdout}"


def general(line: str) -> str:
    """The line without what is another each time: times, ids and folders."""
    line = re.sub(r"\d{8}-\d{6}(-[0-9a-f]{4}\b)?", "<time>", line)
    line = re.sub(r"[0-9a-f]{32}", "<id>", line)
    return re.sub(r"(-> (?:sqlite:///)?)/\S+/", r"\1<folder>/", line)


def assert_nothing_went_wrong(output: str) -> None:
    """Nothing was skipped, dropped or said to have failed."""
    ours = [line for line in output.splitlines() if line.startswith("tracelet-otel:")]
    assert not [line for line in ours if "delivered" not in line and " -> " not in line]
    assert not [line for line in ours if "dropped" in line]
