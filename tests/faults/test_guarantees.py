"""docs/guarantees.md names every row of the matrix, and only tests that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`(tests/[^`]+::[^`]+)`", TEXT))


def collected() -> set[str]:
    """The tests of every file that is named, and of this folder."""
    files = sorted({name.partition("::")[0] for name in NAMED} | {"tests/faults"})
    command = [sys.executable, "-m", "pytest", "-n0", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_every_row_is_named_and_every_name_is_a_test() -> None:
    found = collected()
    tests = found | {name.partition("[")[0] for name in found}
    assert NAMED
    assert NAMED - tests == set()
    rows = {name for name in found if name.startswith("tests/faults/")}
    rows -= {name for name in rows if name.startswith("tests/faults/test_guarantees.py")}
    assert rows - NAMED == set()
