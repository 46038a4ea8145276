"""Reads TensorBoard's event files back with TensorBoard's own loader."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]


class WrittenPoint(NamedTuple):
    """One scalar as the event file has it; ``value`` is a float32."""

    step: int
    value: float
    wall_time: float


def events(folder: Path) -> list[Any]:
    """Every event of the files directly in ``folder``."""
    files = sorted(folder.glob("*tfevents*"))
    return [Event.FromString(data) for file in files for data in RawEventFileLoader(str(file)).Load()]


def points(folder: Path) -> dict[str, list[WrittenPoint]]:
    """Every simple scalar by tag, in the order in which it was written."""
    found: defaultdict[str, list[WrittenPoint]] = defaultdict(list)
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found[value.tag].append(WrittenPoint(event.step, value.simple_value, event.wall_time))
    return dict(found)
