"""TensorBoard's folders of event files: which runs there are, and what is in their files."""

from __future__ import annotations

import os
import re
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracelet_otel.recording.run import clean_text

_NAMESPACE: Final = uuid.UUID("c3a1e8a6-5d0f-5b8a-8d29-3c9f0f6a4b52")
_TIME_STAMP: Final = re.compile(r"\d{9,11}\.\d+")
"""What ``add_hparams`` calls its folder by default: ``str(time.time())``."""
_FRAME_BYTES: Final = 16
"""Around each record of an event file: its length and two checksums."""


class EventFile(NamedTuple):
    """One event file of a run."""

    path: Path
    folder: str
    """Its folder relative to the run's, ``/`` separated; empty for the run's own."""
    size: int


@dataclass(frozen=True)
class EventRun:
    """A run as TensorBoard's folders have it."""

    folder: Path
    name: str
    files: tuple[EventFile, ...]
    """In the order in which they are read."""

    @property
    def id(self) -> str:
        """The same as long as the folder keeps its path and its first file its name."""
        # The file's name has time and host: another machine's folder of the same path is another run.
        return uuid.uuid5(_NAMESPACE, f"{os.path.realpath(self.folder)}\n{self.files[0].path.name}").hex

    @property
    def size(self) -> int:
        """Bytes of its event files."""
        return sum(file.size for file in self.files)


@dataclass
class Damage:
    """What could not be read of the files of one run or several."""

    notes: list[str] = field(default_factory=list[str])
    """A line for each problem."""
    broken: int = 0
    """Files of which more is lost than a last record that was being written."""

    def note_broken(self, path: Path, problem: object) -> None:
        """Notes a file of which more is lost than its last record."""
        self.broken += 1
        self.notes.append(f"{path}: {problem}")

    def add(self, other: Damage) -> None:
        """Adds the damage of another run."""
        self.notes += other.notes
        self.broken += other.broken


def find(folders: Iterable[Path], *, one_run: bool) -> list[EventRun]:
    """Every folder with event files as a run, or each of ``folders`` as one run; each folder only once."""
    found: dict[str, EventRun] = {}
    for top in folders:
        runs = _one_run(top) if one_run else _runs(top)
        for run in runs:
            found.setdefault(os.path.realpath(run.folder), run)
    return list(found.values())


def _runs(top: Path) -> Iterator[EventRun]:
    for folder, names in _walk(top):
        files = tuple(EventFile(folder / name, "", (folder / name).stat().st_size) for name in names)
        yield EventRun(folder, _name(folder, top), files)


def _one_run(top: Path) -> Iterator[EventRun]:
    files = [
        EventFile(folder / name, "" if folder == top else folder.relative_to(top).as_posix(), size)
        for folder, names in _walk(top)
        for name in names
        for size in [(folder / name).stat().st_size]
    ]
    if files:
        # The run's own files first: they have its parameters.
        files.sort(key=lambda file: (file.folder, file.path.name))
        yield EventRun(top, _name(top, top), tuple(files))


def _walk(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders with event files, sorted; links are followed, but no folder is entered twice."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        # As TensorBoard recognizes them.
        events = sorted(name for name in names if "tfevents" in name)
        if events:
            yield Path(folder), events


def _name(folder: Path, top: Path) -> str:
    name = top.resolve().name if folder == top else folder.relative_to(top).as_posix()
    return clean_text(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def tag_of(folder: str, tag: str) -> str:
    """A tag as a live run would have it, whose writer's folder is ``folder`` below the run's first.

    ``add_scalars(m, {a: ...})`` writes ``m`` into a folder that torch calls ``m_a`` and tensorboardX ``m/a``,
    and ``add_hparams`` into one that is called by the time.
    """
    if not folder or _TIME_STAMP.fullmatch(folder):
        return tag
    torch = f"{tag.replace('/', '_')}_"
    if tag and folder.startswith(torch) and "/" not in folder:
        return f"{tag}/{folder[len(torch) :]}"
    if tag and folder.startswith(f"{tag}/"):
        return folder
    return f"{folder}/{tag}"


def events(file: EventFile, damage: Damage, progress: Callable[[int], None]) -> Iterator[Any]:
    """The events of a file, with TensorBoard's own loader.

    Args:
        file: read as far as it can be; what cannot goes into ``damage``.
        damage: of the run.
        progress: called with the bytes of the file that are done.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2

    event_class: Any = getattr(event_pb2, "Event")  # noqa: B009 - made at run time, unknown to type checkers
    done = undecodable = 0
    try:
        loader: Any = RawEventFileLoader(str(file.path))
        for data in loader.Load():
            done += len(data) + _FRAME_BYTES
            progress(done)
            try:
                event = event_class.FromString(data)
            except DecodeError:
                undecodable += 1
                continue
            yield event
    except OSError as error:
        damage.note_broken(file.path, error)
        return
    if undecodable:
        damage.note_broken(file.path, f"{undecodable} records are not events")
    _check_end(file.path, done, damage)


def _check_end(path: Path, done: int, damage: Damage) -> None:
    """Notes what the loader left: it ends at a record that is cut off, and at one that is damaged."""
    with path.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if done >= size:
            return
        opened.seek(done)
        header = opened.read(12)
    left = size - done
    whole = len(header) == 12 and _has_checksum(header)
    if len(header) < 12 or (whole and struct.unpack("<Q", header[:8])[0] + _FRAME_BYTES > left):
        damage.notes.append(f"{path}: the last record is cut off ({left:,} bytes)")
        return
    damage.note_broken(path, f"damaged after {done:,} bytes, the other {left:,} bytes cannot be read")


def _has_checksum(header: bytes) -> bool:
    from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

    masked: Any = pywrap_tensorflow.masked_crc32c  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return masked(header[:8]) == struct.unpack("<I", header[8:])[0]
