"""Which run an event-file writer's values belong to, and whose folder they are of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from tracelet_otel.foundation.forks import SharedLock
from tracelet_otel.instrumentation.tensorboard import private
from tracelet_otel.instrumentation.tensorboard.trials import Trial
from tracelet_otel.recording.logged import LoggedEvent
from tracelet_otel.recording.recorder import Recorder
from tracelet_otel.recording.run import Run
from tracelet_otel.recording.writer_names import absolute

STATE = "_tracelet"
"""Name of the attribute of an event-file writer that holds its :class:`WriterState`."""


_lock = SharedLock()


class WritingCall(NamedTuple):
    """A call that a ``SummaryWriter`` answers by writing through further writers."""

    writer: Any
    hparams: Mapping[str, Any] | None = None
    """Of ``add_hparams``; None for ``add_scalars``."""
    trial: Trial | None = None
    """Of ``add_hparams``: what its values are."""

    @property
    def event_writer(self) -> Any:
        """Of the ``SummaryWriter``, which may make it during the call."""
        return event_writer_of(self.writer)


calling: ContextVar[WritingCall | None] = ContextVar("tracelet_tensorboard_call", default=None)
"""The ``add_scalars`` or ``add_hparams`` that this thread is in."""


class WriterState:
    """What we know of one event-file writer.

    Args:
        folder: what it writes to.
        home: that of the ``SummaryWriter`` which made it.
        bound: the run that was current at its first event.
        closed: its attribute that says whether it is closed and ignores events; empty if it has none.
    """

    __slots__ = ("_all_tags", "bound", "closed", "folder", "home", "tags")

    def __init__(self, folder: str, home: str, bound: Run, closed: str) -> None:
        self.folder = folder
        self.home = home
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

    def name(self, recorder: Recorder, run: Run, tag: str) -> str:
        """The run's tag for one of the writer's own; made once."""
        tags = self._tags_of(run)
        self.tags = (run, tags)
        if tag not in tags:
            tags[tag] = recorder.tag_of(run, self.folder, tag, self.home)
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
            call = _outer_call(event_writer)
            if call is None or call.hparams is None:  # else each value is looked at: for its trial
                setattr(event_writer, STATE, state)
        return state


def _new_state(recorder: Recorder, event_writer: Any) -> WriterState:
    closed = private.CLOSED.attribute
    closed = closed if hasattr(event_writer, closed) else ""
    folder = absolute(str(event_writer.get_logdir()))
    call = _outer_call(event_writer)
    if call is None:
        return WriterState(folder, folder, recorder.scope.current(), closed)
    outer = state_of(recorder, call.event_writer)
    # What `add_hparams` writes is the writer's own: there is one set of hyperparameters.
    return WriterState(folder if call.hparams is None else outer.folder, outer.home, outer.bound, closed)


def event_writer_of(summary_writer: Any) -> Any:
    """The event-file writer of a ``SummaryWriter``; None if it writes nothing."""
    return getattr(getattr(summary_writer, "file_writer", None), "event_writer", None)


def _outer_call(event_writer: Any) -> WritingCall | None:
    """The ``add_scalars`` or ``add_hparams`` of another writer in which this one is written to, if it is."""
    call = calling.get()
    return None if call is None or call.event_writer in (None, event_writer) else call


def with_types(params: LoggedEvent, hparams: Mapping[str, Any]) -> LoggedEvent:
    """The parameters that ``add_hparams`` was given. An event file has integers as floats."""
    decoded: dict[str, Any] = json.loads(params.payload or b"")
    given = {  # in this order; a protobuf map has none
        name: value if isinstance(value, int) else decoded[name]
        for name, value in hparams.items()
        if name in decoded
    }
    return params._replace(payload=json.dumps({**given, **decoded, **given}).encode("ascii"))
