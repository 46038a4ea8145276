"""For the scripts of the rows: logs points, and writes down beside it which. The checker compares the two.

A copy of this file lies beside each script. A point is written down before it is logged, so that a process
that is killed may have written down one more a thread than it logged, and never one less.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import tracelet_otel
import tracelet_otel.agent.delivery
import tracelet_otel.session.process

tracelet_otel.agent.delivery._CONTAINERS = ()  # a row must not depend on whether it runs in one
_PATH = Path(__file__).absolute().with_name("journal")
_FILE = os.open(_PATH, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
_RANK = os.environ.get("RANK", "0")
_SUFFIX = "" if _RANK == "0" else f"/rank_{_RANK}"

if "BACKENDS" in os.environ:
    tracelet_otel.configure(json.loads(os.environ["BACKENDS"]))


def log(tag: str, steps: Iterable[int], *, pause: float = 0.0) -> None:
    """Logs a point a step."""
    for step in steps:
        value = step / 7
        _write(f"{tag}{_SUFFIX}", step, value)
        tracelet_otel.log_scalar(tag, value, step)
        if pause:
            time.sleep(pause)


def mark() -> None:
    """What is logged before this is certain to be kept; the end begins here."""
    _write("", 0, 0.0)


def wait_until_handed_over() -> None:
    """Returns once the agent has everything that was logged so far."""
    session = tracelet_otel.session.process.session()
    assert session is not None
    delivery = session._deliveries[0]
    captured = sum(1 for line in _PATH.read_text().splitlines() if line.split("\t")[3])
    while delivery.counts.delivered_points < captured:
        time.sleep(0.01)


def _write(tag: str, step: int, value: float) -> None:
    thread = f"{os.getpid()}.{threading.get_ident()}"
    line = f"{time.monotonic():.6f}\t{time.time():.6f}\t{thread}\t{tag}\t{step}\t{value!r}\n"
    os.write(_FILE, line.encode())
