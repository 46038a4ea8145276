"""Companion files, until the tracker has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tracelet_otel.tracker.companion import Companions, merge


def test_files_of_an_interrupted_attempt_are_merged(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f"run.{dead.pid}.jsonl").write_bytes(b"a\nb\nb\nc\ntorn")
    (tmp_path / f"run.{os.getpid()}.jsonl").write_bytes(b"b\na\nd\n")
    (tmp_path / f"other.{dead.pid}.jsonl").write_bytes(b"x\n")
    (tmp_path / f"run.{os.getppid()}.jsonl").write_bytes(b"of a living process\n")
    merge(tmp_path, "run")
    assert (tmp_path / f"run.{os.getpid()}.jsonl").read_bytes() == b"b\na\nd\nb\nc\n"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"run.{os.getpid()}.jsonl",
        f"run.{os.getppid()}.jsonl",
        f"other.{dead.pid}.jsonl",
    }


def test_a_run_has_one_file_and_none_is_left(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f"run.{dead.pid}.jsonl").write_bytes(b"a\nb\n")
    (tmp_path / f"run.{os.getpid()}.jsonl").write_bytes(b"b\n")
    stored: dict[str, bytes] = {}
    Companions(tmp_path).upload("run", lambda name, path: stored.update({name: path.read_bytes()}))
    assert list(stored.values()) == [b"b\na\n"]
    assert list(tmp_path.iterdir()) == []
    Companions(tmp_path).upload("run", lambda name, path: stored.update({name: b"again"}))
    assert len(stored) == 1
