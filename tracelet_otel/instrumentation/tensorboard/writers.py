"""Which run an event-file writer's values belong to, and what their tags become.

The first folder that a run is written to, by whichever process, keeps its tags. A writer in another folder
gets the path of its folder relative to the first as a prefix. Two trials of one script would overwrite each
other otherwise.
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
from tracelet_otel.recording.logged import LoggedEvent, json_event
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.recording.run import Run
from tracelet_otel.semconv import TENSORBOARD_LOG_DIR

STATE = "_tracelet"
"""Name of the attribute of an event-file writer that holds its :class:`WriterState`."""


_folders: WeakKeyDictionary[Run, dict[str, str]] = WeakKeyDictionary()
"""The prefix of each folder that a run is written to, the first one first."""
_lock = threading.RLock()


def _prefix(recorder: Recorder, run: Run, folder: str) -> str:
    """The prefix of a folder's tags in a run; tells the run's first folder to the trackers."""
    with _lock:
        is_first = not run.first_folder
        if is_first:
            run.first_folder = folder
        prefixes = _folders.setdefault(run, {run.first_folder: ""})
        if folder not in prefixes:
            prefix = wanted = _relative(folder, run.first_folder)
            number = 1
            while prefix in prefixes.values():
                number += 1
                prefix = f"{wanted}-{number}"
            prefixes[folder] = prefix
    if is_first:
        if run.on_first_folder is not None:
            run.on_first_folder(run)
        payload = json.dumps({TENSORBOARD_LOG_DIR: folder}).encode("ascii")
        recorder.event(json_event("tags", payload, run))
    return prefixes[folder]


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


class WritingCall(NamedTuple):
    """A call that a ``SummaryWriter`` answers by writing through further writers."""

    writer: Any
    main_tag: str | None = None
    """Of ``add_scalars``; None for ``add_hparams``."""
    scalars: Mapping[str, Any] = {}
    hparams: Mapping[str, Any] = {}

    @property
    def event_writer(self) -> Any:
        """Of the ``SummaryWriter``, which may make it during the call."""
        return event_writer_of(self.writer)


calling: ContextVar[WritingCall | None] = ContextVar("tracelet_tensorboard_call", default=None)
"""The ``add_scalars`` or ``add_hparams`` that this thread is in."""


class WriterState:
    """What we know of one event-file writer.

    Args:
        folder: that decides the prefix of its tags.
        bound: the run that was current at its first event.
        closed: its attribute that says whether it is closed and ignores events; empty if it has none.
    """

    __slots__ = ("_all_tags", "bound", "closed", "folder", "tags")

    def __init__(self, folder: str, bound: Run, closed: str) -> None:
        self.folder = folder
        self.bound = bound
        self.closed = closed
        self._all_tags: WeakKeyDictionary[Run, dict[str, str]] = WeakKeyDictionary()
        self.tags: tuple[Run, dict[str, str]] = (bound, self._tags_of(bound))
        """The run of the last value, and that run's tags for the writer's own: one pair, so that a
        thread always sees a run with its own tags."""

    def run(self, recorder: Recorder) -> Run:
        """Whose a value is that this thread writes now: the run it entered, else the writer's own."""
        bound = recorder.scope.current() if self.bound.ended else self.bound
        return recorder.scope.entered() or bound

    def name(self, recorder: Recorder, run: Run, tag: str, event_writer: Any) -> str:
        """The run's tag for one of the writer's own; made once."""
        tags = self._tags_of(run)
        self.tags = (run, tags)
        if tag not in tags:
            prefix = _prefix(recorder, run, self.folder)
            name = tag + _key_suffix(event_writer)
            tags[tag] = f"{prefix}/{name}" if prefix else name
        return tags[tag]

    def _tags_of(self, run: Run) -> dict[str, str]:
        with _lock:
            return self._all_tags.setdefault(run, {})


def state_of(recorder: Recorder, event_writer: Any) -> WriterState:
    """The state of a writer; made at its first event."""
    with _lock:
        state = getattr(event_writer, STATE, None)
        if state is None:
            state = _new_state(recorder, event_writer)
            setattr(event_writer, STATE, state)
        return state


def _new_state(recorder: Recorder, event_writer: Any) -> WriterState:
    closed = private.CLOSED.attribute
    closed = closed if hasattr(event_writer, closed) else ""
    if (call := _outer_call(event_writer)) is not None:
        state = state_of(recorder, call.event_writer)
        if call.main_tag is None or _key_suffix(event_writer):
            return WriterState(state.folder, state.bound, closed)
    folder = str(event_writer.get_logdir())
    if "://" not in folder:
        folder = os.path.abspath(folder)  # noqa: PTH100 - it may be no path of this system
    return WriterState(folder, recorder.scope.current(), closed)


def event_writer_of(summary_writer: Any) -> Any:
    """The event-file writer of a ``SummaryWriter``; None if it writes nothing."""
    return getattr(getattr(summary_writer, "file_writer", None), "event_writer", None)


def _outer_call(event_writer: Any) -> WritingCall | None:
    """The ``add_scalars`` or ``add_hparams`` of another writer in which this one is written to, if it is."""
    call = calling.get()
    return None if call is None or call.event_writer in (None, event_writer) else call


def _key_suffix(event_writer: Any) -> str:
    """``/a`` if this is the writer that ``add_scalars(main_tag, {"a": ...})`` makes, else nothing.

    Both libraries write the main tag into a folder for each key and name that folder in their own way.
    """
    call = _outer_call(event_writer)
    if call is None or call.main_tag is None:
        return ""
    home, folder = str(call.event_writer.get_logdir()), str(event_writer.get_logdir())
    for key in call.scalars:
        torch = f"{home}/{call.main_tag.replace('/', '_')}_{key}"
        if folder in (torch, os.path.join(home, call.main_tag, key)):  # noqa: PTH118 - as tensorboardX does
            return f"/{key}"
    return ""


def with_types(params: LoggedEvent, hparams: Mapping[str, Any]) -> LoggedEvent:
    """The parameters that ``add_hparams`` was given. An event file has integers as floats."""
    decoded: dict[str, Any] = json.loads(params.payload or b"")
    given = {  # in this order; a protobuf map has none
        name: value if isinstance(value, int) else decoded[name]
        for name, value in hparams.items()
        if name in decoded
    }
    return params._replace(payload=json.dumps({**given, **decoded, **given}).encode("ascii"))
