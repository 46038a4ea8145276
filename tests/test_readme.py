"""README.md: every block of code runs as it is written, and the table of settings is the code's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import mlflow_content as mlflow
from tests.support.scripts import BY_DEFAULT, clean_environment, run_script
from tools.settings_table import README, with_table

TEXT = README.read_text(encoding="utf-8")
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>not run: [^\n]+) -->\n)?^```(?P<kind>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
FILE = re.compile(r"# (\w+\.py)\n")
MOST_NOT_RUN = 5


class Section(NamedTuple):
    """A headline's blocks, which run in one folder, one after the other."""

    title: str
    blocks: list[tuple[str, str]]
    """Kind and code of each."""


def sections() -> list[Section]:
    """Those that have anything to run."""
    found: list[Section] = []
    for part in re.split(r"^##+ ", TEXT, flags=re.M):
        blocks = [(match["kind"], match["code"]) for match in FENCE.finditer(part) if not match["mark"]]
        if blocks:
            found.append(Section(part.partition("\n")[0], blocks))
    return found


def test_all_blocks_are_found_and_few_are_not_run() -> None:
    assert TEXT.count("\n```") == 2 * len(FENCE.findall(TEXT))
    assert sum(bool(match["mark"]) for match in FENCE.finditer(TEXT)) <= MOST_NOT_RUN
    assert {kind for section in sections() for kind, _ in section.blocks} == {"python", "console"}


@pytest.mark.slow
@pytest.mark.parametrize("section", sections(), ids=lambda section: section.title)
def test_blocks_run(tmp_path: Path, database: Path, section: Section) -> None:
    expected_status = "FINISHED"
    for kind, code in section.blocks:
        if kind == "console":
            run_commands(tmp_path, code)
            if "exit code 1" in code:
                expected_status = "FAILED"
        elif name := FILE.match(code):
            (tmp_path / name[1]).write_text(code, encoding="utf-8")
        else:
            done = run_script(tmp_path, code, zero_code=False, variables=BY_DEFAULT)
            assert done.returncode == 0, done.stderr
            assert_nothing_went_wrong(done.stderr)
    runs = mlflow.runs(database)
    assert runs
    assert {run.status for run in runs} == {expected_status}
    assert all(mlflow.points(database, run.id) for run in runs)


def run_commands(folder: Path, block: str) -> None:
    """Runs the lines behind ``$`` in one shell; the other lines are in its output, in this order."""
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    expected = [line for line in block.splitlines() if not line.startswith("$ ")]
    environment = clean_environment(**BY_DEFAULT)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(commands)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert_nothing_went_wrong(done.stdout)
    printed = iter([general(line) for line in done.stdout.splitlines()])
    for line in expected:
        assert general(line) in printed, f"{line}\n-- is not, or not in this order, in --\n{done.stdout}"


def general(line: str) -> str:
    """The line without what is another each time: times, ids and folders."""
    line = re.sub(r"\d{8}-\d{6}", "<time>", line)
    line = re.sub(r"[0-9a-f]{32}", "<id>", line)
    return re.sub(r"sqlite:////\S+", "sqlite:///<path>", line)


def assert_nothing_went_wrong(output: str) -> None:
    """Nothing was skipped, dropped or said to have failed."""
    ours = [line for line in output.splitlines() if line.startswith("tracelet-otel:")]
    assert not [line for line in ours if "delivered" not in line and " -> " not in line]
    assert not [line for line in ours if "dropped" in line]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert with_table(TEXT) == TEXT, "run tools/settings_table.py --write"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (README.parent / target).exists(), target
