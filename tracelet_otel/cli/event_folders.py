"""TensorBoard's folders of event files: which runs there are, and what is in their files."""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

from opentelemetry.util.types import AnyValue

from tracelet_otel import semconv
from tracelet_otel.instrumentation.tensorboard.trials import TIMESTAMP
from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.recording.run import clean_text
from tracelet_otel.recording.writer_names import series_tag

_NAMESPACE: Final = uuid.UUID("c3a1e8a6-5d0f-5b8a-8d29-3c9f0f6a4b52")
_FRAME_BYTES: Final = 16
"""Around each record of an event file: its length and two checksums."""
_PROJECTOR: Final = "projector_config.pbtxt"


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
    undecodable: int = 0
    """Values that are kept as they are, as artifacts."""

    def note_broken(self, path: Path, problem: object) -> None:
        """Notes a file of which more is lost than its last record."""
        self.broken += 1
        self.notes.append(f"{path}: {problem}")


def find(folders: Iterable[Path], *, one_run: bool) -> list[EventRun]:
    """Every folder with event files as a run, or each of ``folders`` as one run; each folder only once."""
    found: dict[str, EventRun] = {}
    for top in folders:
        files: dict[Path, list[EventFile]] = {}
        for path in _event_files(top):
            folder = top if one_run else path.parent
            below = path.parent.relative_to(folder).as_posix()
            file = EventFile(path, "" if below == "." else below, path.stat().st_size)
            files.setdefault(folder, []).append(file)
        for folder, of_run in files.items():
            of_run.sort(key=lambda file: (file.folder, file.path.name))  # the run's own have its parameters
            name = top.resolve().name if folder == top else folder.relative_to(top).as_posix()
            name = clean_text(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
            found.setdefault(os.path.realpath(folder), EventRun(folder, name, tuple(of_run)))
    return list(found.values())


def _event_files(top: Path) -> Iterator[Path]:
    """Sorted by their folders; links are followed, but no folder is entered twice."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(folder, name) for name in names if "tfevents" in name)  # as TensorBoard has it


def tag_of(folder: str, tag: str) -> str:
    """A tag as a live run would have it, whose writer's folder is ``folder`` below the run's first.

    What ``add_hparams`` writes into a folder that is called by the time is the run's own.
    """
    return tag if TIMESTAMP.fullmatch(folder) else series_tag("/", f"/{folder}", tag)


def events(file: EventFile, damage: Damage) -> Iterator[tuple[Any, int]]:
    """The events of a file, with TensorBoard's own loader, each with the bytes of the file up to its end."""
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2

    event_class: Any = getattr(event_pb2, "Event")  # noqa: B009 - made at run time, unknown to type checkers
    done = undecodable = 0
    try:
        loader: Any = RawEventFileLoader(str(file.path))
        for data in loader.Load():
            done += len(data) + _FRAME_BYTES
            try:
                yield event_class.FromString(data), done
            except DecodeError:
                undecodable += 1
    except OSError as error:
        damage.note_broken(file.path, error)
        return
    if undecodable:
        damage.note_broken(file.path, f"{undecodable} records are not events")
    _check_end(file.path, done, damage)


def _check_end(path: Path, done: int, damage: Damage) -> None:
    """Notes what the loader left: it ends at a record that is cut off, and at one that is damaged."""
    from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

    with path.open("rb") as opened:
        left = os.fstat(opened.fileno()).st_size - done
        opened.seek(done)
        header = opened.read(12)
    if left <= 0:
        return
    masked: Any = pywrap_tensorflow.masked_crc32c  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    length, checksum = struct.unpack("<QI", header.ljust(12))
    if len(header) < 12 or (checksum == masked(header[:8]) and length + _FRAME_BYTES > left):
        damage.notes.append(f"{path}: the last record is cut off ({left:,} bytes)")
    else:
        damage.note_broken(path, f"damaged after {done:,} bytes, the other {left:,} bytes cannot be read")


def embeddings(folder: Path, damage: Damage) -> Iterator[tuple[LoggedEvent, int]]:
    """The files that the projector's configuration lists, as live instrumentation records them.

    Each with its time in nanoseconds. Source: ``tensorboard/plugins/projector/projector_config.proto``; the
    name ``tag:step`` is that of ``torch.utils.tensorboard`` and tensorboardX.
    """
    path = folder / _PROJECTOR
    if not path.is_file():
        return
    from google.protobuf import text_format

    config: Any = import_module("tensorboard.plugins.projector.projector_config_pb2").ProjectorConfig()
    try:
        text_format.Parse(path.read_bytes(), config)
    except (OSError, text_format.ParseError) as error:
        damage.note_broken(path, error)
        return
    for embedding in config.embeddings:
        tag, _, step = embedding.tensor_name.rpartition(":")
        number = int(step) if step.lstrip("-").isdigit() else 0
        listed = [
            (embedding.tensor_path, "text/tab-separated-values"),
            (embedding.metadata_path, "text/tab-separated-values"),
            (embedding.sprite.image_path, "image/png"),
            (_PROJECTOR, "text/plain"),
        ]
        for file, mime_type in ((folder / name, mime_type) for name, mime_type in listed if name):
            try:
                payload, time = file.read_bytes(), file.stat().st_mtime_ns
            except OSError as error:
                damage.note_broken(file, error)
                continue
            attributes: dict[str, AnyValue] = {semconv.FILE_NAME: file.name}
            name = tag or embedding.tensor_name
            yield LoggedEvent("embedding", name, number, payload, mime_type, attributes), time
