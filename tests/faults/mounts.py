"""File systems that only a row's script and its agents see: a disk that is really full, or read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


class Mounts(NamedTuple):
    """A mount namespace."""

    within: list[str]
    """The command that runs a command in it."""
    root: Path
    """Its root, as seen from here."""


@contextmanager
def mounts(folder: Path, script: str) -> Generator[Mounts]:
    """A mount namespace, as long as it lasts; skips the test where the system lets nobody make one.

    Args:
        folder: the current folder of what runs in it.
        script: of the shell, mounts there.
    """
    command = [*_UNSHARE, "sh", "-ec", f"{script}\necho ready\nread end"]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as keeper:
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        if keeper.stdout.readline() != "ready\n":
            pytest.skip(f"no mount namespace: {keeper.stderr.read()}")
        enter = ["nsenter", f"--target={keeper.pid}", "--user", "--mount", "--preserve-credentials"]
        try:
            # Who enters is at the root.
            yield Mounts(
                [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(folder)], Path(f"/proc/{keeper.pid}/root")
            )
        finally:
            keeper.communicate("\n")
