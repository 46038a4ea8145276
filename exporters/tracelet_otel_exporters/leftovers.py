"""Companion files that an interrupted attempt left, and those of the next one, as one."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from tracelet_otel_exporters.companion import (
    _is_alive,  # pyright: ignore[reportPrivateUsage]
    _quoted,  # pyright: ignore[reportPrivateUsage]
)


def merge(folder: Path, run_id: str) -> None:
    """Merges a run's companion files, ours and those whose writer is gone, into ours.

    What was delivered again is kept aside again, by some trackers: such a line is in several files and once
    in the data. A line that one file has several times was logged several times, and stays so.

    Raises:
        OSError: the folder cannot be read or written.
    """
    prefix = _quoted(run_id)
    ours = folder / f"{prefix}.{os.getpid()}.jsonl"
    others = [path for path in sorted(folder.glob(f"{prefix}.*.jsonl")) if path != ours and _is_left(path)]
    if not others:
        return
    # Ours first: the file is the same then as if there had been no interruption.
    lines: Counter[bytes] = Counter(ours.read_bytes().splitlines()) if ours.exists() else Counter()
    with ours.open("ab") as file:
        for path in others:
            # The last line may be torn: its writer was killed.
            found = Counter(line for line in path.read_bytes().splitlines(True) if line.endswith(b"\n"))
            for line, count in found.items():
                missing = count - lines[line.rstrip(b"\n")]
                if missing > 0:
                    file.write(line * missing)
                    lines[line.rstrip(b"\n")] += missing
    for path in others:
        path.unlink(missing_ok=True)


def _is_left(path: Path) -> bool:
    pid = path.name.split(".")[-2]
    return pid.isdigit() and not _is_alive(int(pid))
