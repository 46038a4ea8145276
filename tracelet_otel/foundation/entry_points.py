"""What is installed: the entry points of all packages, read once in a process."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from tracelet_otel.foundation import private


def in_group(group: str) -> list[EntryPoint]:
    """The entry points of a group that there were when the process started."""
    # OpenTelemetry keeps what it read; to read it again takes 8 ms.
    known = private.ENTRY_POINTS.get(default=entry_points)
    return list(known(group=group))


def find(group: str, name: str) -> EntryPoint | None:
    """The entry point of that name, if any distribution has it, also one that was installed since."""
    found = (entry for entry in in_group(group) if entry.name == name)
    return next(found, None) or next(iter(entry_points(group=group, name=name)), None)
