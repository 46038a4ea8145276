"""A run: one training attempt series with one id, and which run a value belongs to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from tracelet_otel.foundation.forks import SharedLock
from tracelet_otel.recording.series import BoundSeries
from tracelet_otel.secrets.redaction import redacted
from tracelet_otel.semconv import RANK, RUN_ID, TAG

_SURROGATES = re.compile("[\ud800-\udfff]")


def clean_text(text: str) -> str:
    """``text`` as OTLP can carry it: lone surrogates, which UTF-8 lacks, are spelled out."""
    if text.isascii():
        return text
    return _SURROGATES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def digits_of(run_id: str) -> str:
    """Four digits that tell runs of one name from each other."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:4]


class Run:
    """One run. It opens in the trackers with its first point or record, never before.

    Args:
        id: the run's id; empty for a new one.
        name: what people call it.
        project: where trackers file it.
        experiment: group inside the project.
        tags: its labels; secrets among them are masked.
        rank: this process's rank among several that write into the run, else None.
        parent: id of the run whose child it is, if that is known before it opens.
        family: what a run with child runs and all runs below it have in common, as trackers show it.
        owner: the id of the process that opened it, and ends it; 0 for this one.
        on_open: called once, before the first point or record is recorded.
    """

    def __init__(
        self,
        *,
        id: str = "",
        name: str = "",
        project: str = "",
        experiment: str = "",
        tags: Mapping[str, str] | None = None,
        rank: int | None = None,
        parent: str = "",
        family: str = "",
        owner: int = 0,
        on_open: Callable[[Run], None] | None = None,
    ) -> None:
        self.id = clean_text(id) or uuid.uuid4().hex
        self.name = clean_text(name)
        self.project = clean_text(project)
        self.experiment = clean_text(experiment)
        self.tags = redacted({clean_text(key): clean_text(value) for key, value in (tags or {}).items()})
        self.rank = rank
        self.parent = parent
        self.family = family
        self.owner = owner or os.getpid()
        """The id of the process that ends it."""
        self.opened = False
        self.ended = False
        self._opening = False
        self._on_open = on_open
        self._process = os.getpid()
        self._above: Run | None = None
        self._below: WeakSet[Run] = WeakSet()
        self._lock = SharedLock()
        self.opened_at = 0
        """Nanoseconds since 1970 of its description, of this process."""
        self.first_folder = ""
        """The first folder that a writer of any process wrote the run to, absolute; empty until then."""
        self.choose_first_folder: Callable[[str], str] | None = None
        """Says which folder is the first, of a process that would take the one that it is given."""
        self.tell_children: Callable[[], None] | None = None
        """Tells child processes its name, family and first folder again, if they join it."""
        self.series: dict[str, BoundSeries] = {}
        """The series of each tag, the recorder's."""
        self.last_step: dict[str, int] = {}
        """The last step of each tag that was logged through the API."""
        self.of_hooks: dict[str, Any] = {}
        """What a hook keeps of the run, by the hook's name."""

    def open(self) -> None:
        """Opens the run if it is not open yet."""
        with self._lock:  # held until the run is announced: no other thread's point may come before
            if self.opened or self._opening:  # what on_open records is recorded by this very thread
                return
            self._opening = True
            try:
                if self._on_open is not None:
                    self._on_open(self)
            finally:
                self.opened = True

    @property
    def joined(self) -> bool:
        """Whether it is the run of another process, which ends it."""
        return self.owner != os.getpid()

    def open_again(self, parent: int) -> None:
        """In a forked child: opens with the child's first value. If the parent has opened it, it ends it."""
        if self._process == os.getpid():  # it is below several
            return
        self._process = os.getpid()
        if self.owner == parent and not (self.opened or self._opening):
            self.owner = os.getpid()
        self.opened = self._opening = False
        for run in tuple(self._below):
            run.open_again(parent)

    def below(
        self, *, id: str = "", name: str = "", project: str, experiment: str, tags: Mapping[str, str]
    ) -> Run:
        """A new run that is a child of this one; see :meth:`settle`."""
        made = Run(
            id=id,
            name=name,
            project=project,
            experiment=experiment,
            tags=tags,
            rank=self.rank,
            on_open=self._on_open,
        )
        made._above = self
        self._below.add(made)
        return made

    def settle(self) -> Run | None:
        """Decides, as the run opens, whose child it is: that of the nearest run above it that is open by now.

        Returns: the parent if this is the first sign that it has children, so that its description is new.
        """
        above = self._above
        while above is not None and not above.opened:
            if above.joined:
                above.open()  # it is open, but no value of this process went into it yet
            elif above._above is None:
                self.parent, self.family = above.parent, above.family
                return None
            else:
                above = above._above
        if above is None:
            return None
        is_known = above.family != ""
        self.parent, self.family = above.id, above.name_family()
        return None if is_known or above.ended else above

    def name_family(self) -> str:
        """The run's family, which is named after the run that is the topmost of it."""
        if not self.family:
            digits = digits_of(self.id)
            self.family = (
                self.name if self.name.endswith(f"-{digits}") else f"{self.name}-{digits}".lstrip("-")
            )
        return self.family

    def continue_from(self, before: Run) -> None:
        """Goes on where ``before``, of this id or a new one, was."""
        self.last_step.update(before.last_step)
        self.first_folder, self.parent, self.family = before.first_folder, before.parent, before.family

    def attributes(self, tag: str) -> dict[str, str | int]:
        """The attributes of one tag's points. Opens the run."""
        if not self.opened:
            self.open()
        return {TAG: clean_text(tag), **self.identity()}

    def write_to(self, folder: str) -> bool:
        """Notes that a writer writes to a folder, absolute or a URL; returns whether it became the first."""
        if self.first_folder:
            return False
        with self._lock:
            if self.first_folder:  # another thread's point was faster
                return False
            choose = self.choose_first_folder
            self.first_folder = folder if choose is None else choose(folder)
            if self.tell_children is not None:
                self.tell_children()
            return self.first_folder == folder

    def next_step(self, tag: str) -> int:
        """The step of a value that was logged without one: the tag's last one plus one, from 0."""
        return self.last_step.get(tag, -1) + 1

    def identity(self) -> dict[str, str | int]:
        """The attributes that say whose a point or record is."""
        if self.rank is None:
            return {RUN_ID: self.id}
        return {RUN_ID: self.id, RANK: self.rank}

    def description(self) -> bytes:
        """The payload of the run's event."""
        described: dict[str, object] = {
            "name": self.name,
            "project": self.project,
            "experiment": self.experiment,
            "tags": self.tags,
        }
        described |= {key: text for key in ("parent", "family") if (text := getattr(self, key))}
        return json.dumps(described).encode()


class RunScope:
    """Which run is current: the one this thread or task entered, else the last one that any thread entered.

    A thread that was started inside ``with run():`` does not inherit its context variables, so the
    innermost run of the process stands in for them.
    """

    def __init__(self, default: Run) -> None:
        self.default = default
        self._entered: ContextVar[Run | None] = ContextVar("tracelet_run", default=None)
        self._active: list[Run] = []
        self.current_elsewhere = default

    def current(self) -> Run:
        """The run that a value logged here and now belongs to."""
        return self._entered.get() or self.current_elsewhere

    def entered(self) -> Run | None:
        """The run that this thread or task itself entered, if any."""
        return self._entered.get()

    def enter(self, run: Run) -> None:
        """Makes ``run`` the current one."""
        self._active.append(run)
        self._entered.set(run)
        self.current_elsewhere = run

    @contextmanager
    def inside(self, run: Run) -> Generator[None]:
        """Makes ``run`` the current one of this thread or task alone."""
        token = self._entered.set(run)
        try:
            yield
        finally:
            self._entered.reset(token)

    def leave(self, run: Run, previous: Run | None) -> None:
        """Makes ``previous`` the current one again."""
        if run in self._active:
            self._active.remove(run)
        self._entered.set(previous)
        self.current_elsewhere = self._active[-1] if self._active else self.default

    def all(self) -> list[Run]:
        """Every run that has not been left, the default one last."""
        return [*self._active, self.default]
