"""Which run an event-file writer's values belong to, and what their tags become.

The first folder that a run is written to keeps its tags. A writer in another folder gets the folder's
path relative to the first as a prefix, as two trials of one script would overwrite each other otherwise.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from tracelet_otel.instrumentation.tensorboard import private
from tracelet_otel.instrumentation.tensorboard.events import Content
from tracelet_otel.recording.logged import json_event
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.recording.run import Run
from tracelet_otel.semconv import TENSORBOARD_LOG_DIR

STATE = "_tracelet"
"""Name of the attribute of an event-file writer that holds its :class:`WriterState`."""


class Folders:
    """The prefixes of the folders that one run is written to."""

    def __init__(self) -> None:
        self._prefixes: dict[str, str] = {}
        self._first = ""

    def prefix(self, folder: str) -> tuple[str, bool]:
        """The prefix of a folder's tags, and whether it is new and the first one."""
        if folder in self._prefixes:
            return self._prefixes[folder], False
        if not self._prefixes:
            self._first = folder
            self._prefixes[folder] = ""
            return "", True
        wanted = _relative(folder, self._first)
        prefix, number = wanted, 1
        while prefix in self._prefixes.values():
            number += 1
            prefix = f"{wanted}-{number}"
        self._prefixes[folder] = prefix
        return prefix, False


def _relative(folder: str, first: str) -> str:
    name = folder.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if ("://" in folder) != ("://" in first):
        return name
    try:
        path = os.path.relpath(folder, first)
    except ValueError:  # on another drive
        return name
    parts = [part for part in path.replace(os.sep, "/").split("/") if part not in ("..", ".")]
    return "/".join(parts) or name


def _absolute(folder: str) -> str:
    return folder if "://" in folder else os.path.abspath(folder)  # noqa: PTH100 - it may be no path of this system


_folders: WeakKeyDictionary[Run, Folders] = WeakKeyDictionary()
_lock = threading.RLock()


def _prefix(recorder: Recorder, run: Run, folder: str) -> str:
    """The prefix of a folder's tags in a run; tells the run's first folder to the trackers."""
    with _lock:
        folders = _folders.get(run)
        if folders is None:
            folders = _folders[run] = Folders()
        prefix, is_first = folders.prefix(folder)
    if is_first:
        payload = json.dumps({TENSORBOARD_LOG_DIR: folder}).encode("ascii")
        recorder.event(json_event("tags", payload, run))
    return prefix


class WritingCall(NamedTuple):
    """A call that a ``SummaryWriter`` answers by writing through further writers."""

    writer: Any
    main_tag: str | None = None
    """Of ``add_scalars``."""
    scalars: Mapping[str, Any] = {}
    """Of ``add_scalars``."""
    hparams: Mapping[str, Any] = {}
    """Of ``add_hparams``."""


calling: ContextVar[WritingCall | None] = ContextVar("tracelet_tensorboard_call", default=None)
"""The ``add_scalars`` or ``add_hparams`` that this thread is in."""


class WriterState:
    """What we know of one event-file writer.

    Args:
        folder: that decides the prefix of its tags.
        bound: the run that was current at its first event.
        can_be_closed: once it is closed it ignores events silently, as tensorboardX's does.
    """

    __slots__ = ("_all_tags", "bound", "can_be_closed", "folder", "tags")

    def __init__(self, folder: str, bound: Run, can_be_closed: bool) -> None:
        self.folder = folder
        self.bound = bound
        self.can_be_closed = can_be_closed
        self._all_tags: WeakKeyDictionary[Run, dict[str, str]] = WeakKeyDictionary()
        self.tags: tuple[Run, dict[str, str]] = (bound, self._tags_of(bound))
        """The run of the last value, and that run's tags for the writer's own: one pair, so that a
        thread always sees a run with its own tags."""

    def run(self, recorder: Recorder) -> Run:
        """Whose a value is that this thread writes now: the run it entered, else the writer's own."""
        entered = recorder.scope.entered()
        if entered is not None:
            return entered
        return recorder.scope.current() if self.bound.ended else self.bound

    def name(self, recorder: Recorder, run: Run, tag: str, event_writer: Any) -> str:
        """The run's tag for one of the writer's own; made once."""
        tags = self._tags_of(run)
        self.tags = (run, tags)
        if tag not in tags:
            prefix = _prefix(recorder, run, self.folder)
            name = tag + (_key_suffix(event_writer) or "")
            tags[tag] = f"{prefix}/{name}" if prefix else name
        return tags[tag]

    def _tags_of(self, run: Run) -> dict[str, str]:
        with _lock:
            return self._all_tags.setdefault(run, {})


def state_of(recorder: Recorder, event_writer: Any) -> WriterState:
    """The state of a writer; made at its first event."""
    state = getattr(event_writer, STATE, None)
    if state is None:
        with _lock:
            state = getattr(event_writer, STATE, None)
            if state is None:
                state = _new_state(recorder, event_writer)
                setattr(event_writer, STATE, state)
    return state


def _new_state(recorder: Recorder, event_writer: Any) -> WriterState:
    can_be_closed = hasattr(event_writer, private.CLOSED.attribute)
    folder = _absolute(str(event_writer.get_logdir()))
    parent = _parent(event_writer)
    if parent is not None:
        state = state_of(recorder, parent)
        if _key_suffix(event_writer) is not None or _is_of_hparams():
            return WriterState(state.folder, state.bound, can_be_closed)
    return WriterState(folder, recorder.scope.current(), can_be_closed)


def event_writer_of(summary_writer: Any) -> Any:
    """The event-file writer of a ``SummaryWriter``; None if it writes nothing."""
    return getattr(getattr(summary_writer, "file_writer", None), "event_writer", None)


def _parent(event_writer: Any) -> Any:
    """The writer in whose ``add_scalars`` or ``add_hparams`` another one is written to, if it is."""
    call = calling.get()
    parent = None if call is None else event_writer_of(call.writer)
    return None if parent is event_writer else parent


def _is_of_hparams() -> bool:
    call = calling.get()
    return call is not None and call.main_tag is None


def _key_suffix(event_writer: Any) -> str | None:
    """``/a`` if this is the writer that ``add_scalars(main_tag, {"a": ...})`` makes, else None.

    Both libraries write the main tag into a folder for each key and name that folder in their own way.
    """
    call, parent = calling.get(), _parent(event_writer)
    if call is None or call.main_tag is None or parent is None:
        return None
    home, folder = str(parent.get_logdir()), str(event_writer.get_logdir())
    for key in call.scalars:
        torch = f"{home}/{call.main_tag.replace('/', '_')}_{key}"
        if folder in (torch, os.path.join(home, call.main_tag, key)):  # noqa: PTH118 - as tensorboardX does
            return f"/{key}"
    return None


def with_types(params: Content, hparams: Mapping[str, Any]) -> Content:
    """The parameters that ``add_hparams`` was given. An event file has integers as floats."""
    decoded: dict[str, Any] = json.loads(params.payload)
    given: dict[str, Any] = {}
    for name, value in hparams.items():  # in this order; a protobuf map has none
        if name in decoded:
            whole = isinstance(value, int) and not isinstance(value, bool)
            given[name] = int(value) if whole else value if isinstance(value, bool) else decoded[name]
    return params._replace(payload=json.dumps({**given, **decoded, **given}).encode("ascii"))
