"""What the launcher of this process says: rank, world size, and an id that all ranks agree on.

Source: PyTorch documentation, "torchrun (Elastic Launch)", section "Environment Variables".
"""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import NamedTuple

_NAMESPACE = uuid.UUID("7b4f9f43-6a8b-5b5c-9d8e-0f6d0f1f9a4e")


class Launch(NamedTuple):
    """How this process was launched. Alone: rank None and no run id."""

    rank: int | None = None
    run_id: str = ""


def detect() -> Launch:
    """Reads torchrun's variables; without them, or with one rank, the process is alone."""
    try:
        world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", ""))
    except ValueError:
        return Launch()
    if world_size < 2:
        return Launch()
    return Launch(rank, _torchrun_id())


def _torchrun_id() -> str:
    elastic_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if elastic_id and elastic_id != "none":
        return uuid.uuid5(_NAMESPACE, f"torchrun {elastic_id}").hex
    if elastic_id and os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):
        # One node without a rendezvous id: the ranks share their parent, and the moment it started.
        parent = os.getppid()
        return uuid.uuid5(_NAMESPACE, f"{socket.gethostname()} {parent} {_start_time(parent)}").hex
    return ""


def _start_time(pid: int) -> str:
    # Field 22 of /proc/<pid>/stat, clock ticks after boot (proc(5)); elsewhere the pid must do.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return stat.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
