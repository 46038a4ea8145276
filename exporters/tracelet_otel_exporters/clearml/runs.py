"""Finds or creates the ClearML task of a run id, also when many processes do it at once."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Final

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.semconv import Status
from tracelet_otel_exporters.clearml.connection import ClearMLConnection, ClearMLRefusedError
from tracelet_otel_exporters.clearml.names import Name, clean
from tracelet_otel_exporters.shared.steps import Steps

SETTLE_SECONDS: Final = 0.2
"""How long a new task waits for tasks of the same run that other ranks create at the same moment."""
RUN_ID: Final = "tracelet_run_id"
"""The user property that holds the run's id."""
PARENT: Final = "tracelet_run_parent"
"""The user property that holds the id of the run's parent."""
NAME: Final = "tracelet_run_name"
"""The user property that holds the run's exact name: ClearML strips names, and they have 3 characters."""
MIN_NAME: Final = 3
MAX_SHOWN_TAG: Final = 200
"""Characters; what is longer is whole in the user property."""
PAGE: Final = 10_000
"""Events a request, ClearML's limit."""

_TASK_ID: Final = re.compile(r"[0-9a-f]{32}")
_FIELDS: Final = ("id", "name", "status", "created", "project", "tags", "hyperparams", "parent")
ENDS: Final[Mapping[Status, tuple[str, str]]] = {
    "finished": ("completed", ""),
    "failed": ("failed", "the run failed"),
    "killed": ("stopped", "the run was killed"),
}
"""By status: ClearML's call for it, and its reason."""


@dataclass(slots=True)
class ClearMLRun:
    """A run of ours in ClearML and what is known of its content."""

    connection: ClearMLConnection
    info: RunInfo
    id: str
    """The task's."""
    project: str
    """The project's id."""
    created: float
    """Seconds since 1970, by the server's clock: what machine measurements count their seconds from."""
    is_resumed: bool
    """Found, not created: other processes may have written to it."""
    params: dict[str, str]
    """What ClearML has."""
    tags: dict[str, str] = field(default_factory=dict[str, str])
    parent: str = ""
    """The task of its parent, once ClearML was told."""
    has_adopted: bool = False
    """Whether children were looked for that came before it."""
    steps: dict[Name, Steps] = field(default_factory=dict[Name, Steps])
    """By scalar: what ClearML has."""
    aside: set[int] | None = None
    """Hashes of the points that are in the run's companion files; None: not looked yet."""
    noted: set[str] = field(default_factory=set[str])
    """What is in ClearML once and for all: cut names, texts on the console."""
    last_readings: dict[tuple[str, str], tuple[float, float]] = field(
        default_factory=dict["tuple[str, str]", "tuple[float, float]"]
    )
    """By host and quantity, of what only grows: the last value and its time in seconds, for rates."""

    def call(self, action: str, **data: Any) -> Any:
        """Calls ``tasks.<action>`` for the task."""
        return self.connection.call("tasks", action, task=self.id, **data)

    def edit(self, action: str, **data: Any) -> None:
        """Calls ``tasks.<action>``, which needs a task in progress.

        ClearML's server stops tasks from which it has not heard for long, and people stop them too: then it
        is put in progress again.
        """
        try:
            self.call(action, **data)
        except ClearMLRefusedError as error:
            if not error.is_status:
                raise
            self.start()
            self.call(action, **data)

    def start(self) -> None:
        """Puts the task in progress."""
        # Forced, as for ClearML a failed task is over. Not reset, which would delete what it has.
        self.call("started", force=True, status_reason="", status_message="")

    def stored(self, name: str) -> dict[str, Any]:
        """A field of the task as ClearML has it now; an empty one where it has none."""
        return self.call("get_by_id")["task"].get(name) or {}

    def events(self, kind: str, name: Name) -> Iterator[Mapping[str, Any]]:
        """The events of one name that ClearML has; an older server answers with those of all scalars."""
        scroll: str | None = None
        while True:
            page = self.connection.call(
                *("events", "get_task_events"),
                task=self.id,
                event_type=kind,
                metrics=[{"metric": name.metric, "variants": [name.variant]}],
                batch_size=PAGE,
                scroll_id=scroll,
            )
            events: Sequence[Mapping[str, Any]] = page.get("events") or ()
            yield from events
            if len(events) < PAGE:
                return
            scroll = page.get("scroll_id")


def open_run(connection: ClearMLConnection, info: RunInfo) -> ClearMLRun:
    """Finds the task by its user property or its own id, else creates it; it is in progress then."""
    found = _by_property(connection, info.id) or _by_task_id(connection, info.id)
    task = found[0] if found else _create(connection, info)
    if task["status"] in ("published", "publishing"):
        raise PermanentError(f"ClearML task {task['id']} is published, so nothing can be added to it")
    sections: Mapping[str, Mapping[str, Any]] = task.get("hyperparams") or {}
    run = ClearMLRun(
        connection=connection,
        info=info,
        id=task["id"],
        project=_id(task.get("project")),
        created=_seconds(task.get("created")),
        is_resumed=bool(found),
        params={name: str(item.get("value", "")) for name, item in sections.get("General", {}).items()},
        parent=_id(task.get("parent")),
    )
    describe(run, info)
    if task["status"] != "in_progress":
        run.start()
    return run


def describe(run: ClearMLRun, info: RunInfo) -> None:
    """Updates what a person reads of the run: name and tags."""
    if info.name and (info.name != run.info.name or run.is_resumed):
        run.call("update", name=_task_name(info))
        _set_properties(run, {NAME: info.name})
    write_tags(run, info.tags)
    _relate(run, info)
    run.info = info


def _relate(run: ClearMLRun, info: RunInfo) -> None:
    """Tells ClearML of the task's parent, and children that came before the task of their parent.

    Each of the two is in ClearML before it looks for the other, so that one of them finds it.
    """
    connection = run.connection
    if info.parent and not run.parent:
        _set_properties(run, {PARENT: info.parent})
        found = _by_property(connection, info.parent) or _by_task_id(connection, info.parent)
        if found:
            run.parent = found[0]["id"]
            run.edit("edit", parent=run.parent, force=True)
    if info.family and not run.has_adopted:
        run.has_adopted = True
        for child in _by_property(connection, info.id, PARENT):
            if not _id(child.get("parent")):
                with contextlib.suppress(ClearMLRefusedError):  # it was published, or deleted
                    _adopt(connection, child["id"], child["status"], run.id)


def _adopt(connection: ClearMLConnection, task: str, status: str, parent: str) -> None:
    """Sets the parent of another task; one that has ended is put in progress for it, and ended again."""
    end = next((end for end in ENDS.values() if end[0] == status), None)
    if end is not None:
        connection.call("tasks", "started", task=task, force=True, status_reason="", status_message="")
    connection.call("tasks", "edit", task=task, parent=parent, force=True)
    if end is not None:
        reason = {"status_reason": end[1], "status_message": end[1]}
        connection.call("tasks", end[0], task=task, force=True, **reason)


def write_tags(run: ClearMLRun, tags: Mapping[str, object]) -> None:
    """Writes labels: as tags for people, and as user properties, which keep names and values exactly."""
    new = {name: text for name, value in tags.items() if run.tags.get(name) != (text := str(value))}
    if not new:
        return
    _set_properties(run, {_property(name): text for name, text in new.items()})
    shown = {tag for task in _by_task_id(run.connection, run.id) for tag in task.get("tags") or ()}
    shown -= {_shown(name, run.tags[name]) for name in new if name in run.tags}
    shown |= {_shown(name, text) for name, text in new.items()}
    # ClearML reads a tag that begins so as an operator of its queries.
    run.call("update", tags=sorted(tag for tag in shown if not tag.startswith("__$")))
    run.tags.update(new)


def item(section: str, name: str, value: str, kind: str = "str") -> dict[str, str]:
    """A hyperparameter or a user property as ClearML has it."""
    return {"section": section, "name": name, "value": clean(value), "type": kind, "description": ""}


def known_steps(run: ClearMLRun, name: Name) -> Steps:
    """The points of a scalar that ClearML has, each as its step and the hash of its time and value."""
    if not run.is_resumed:
        return Steps()
    known: dict[int, int] = {}
    for event in run.events("training_stats_scalar", name):
        if (event.get("metric"), event.get("variant")) == (name.metric, name.variant):
            known[int(event["iter"])] = hash((int(event["timestamp"]), float(event["value"])))
    return Steps(known.items())


def _create(connection: ClearMLConnection, info: RunInfo) -> Mapping[str, Any]:
    properties = {RUN_ID: info.id, **({NAME: info.name} if info.name else {})}
    made: str = connection.call(
        *("tasks", "create"),
        name=_task_name(info),
        type="training",
        project=_project(connection, info),
        hyperparams={"properties": {name: item("properties", name, properties[name]) for name in properties}},
    )["id"]
    time.sleep(SETTLE_SECONDS)
    found = _by_property(connection, info.id) or _by_task_id(connection, made)
    if found[0]["id"] != made:  # another process was faster
        connection.call("tasks", "delete", task=made, force=True)
    return found[0]


def _set_properties(run: ClearMLRun, properties: Mapping[str, str]) -> None:
    """Sets user properties, which ClearML takes in every status."""
    items = [item("properties", name, value) for name, value in properties.items()]
    run.call("edit_hyper_params", hyperparams=items, force=True)


def _by_property(connection: ClearMLConnection, run_id: str, name: str = RUN_ID) -> list[Mapping[str, Any]]:
    """Tasks with a run's id as a user property, oldest first; every process sees the same order."""
    text = clean(run_id)
    found = _tasks(
        connection,
        # the server ignores case, and has no other condition that takes any text
        _all_={"fields": [f"hyperparams.properties.{name}.value"], "pattern": f"^{re.escape(text)}$"},
        order_by=["created"],
    )
    same = [task for task in found if task["hyperparams"]["properties"][name]["value"] == text]
    return sorted(same, key=lambda task: (str(task.get("created")), str(task["id"])))


def _by_task_id(connection: ClearMLConnection, run_id: str) -> list[Mapping[str, Any]]:
    return _tasks(connection, id=[run_id]) if _TASK_ID.fullmatch(run_id) else []


def _tasks(connection: ClearMLConnection, **conditions: Any) -> list[Mapping[str, Any]]:
    fields = list(_FIELDS)
    return connection.call("tasks", "get_all", only_fields=fields, search_hidden=True, **conditions)["tasks"]


def _project(connection: ClearMLConnection, info: RunInfo) -> str:
    parts = [part.strip() for part in f"{info.project}/{info.experiment}".split("/") if part.strip()]
    name = clean("/".join([parts[0].ljust(MIN_NAME, "_"), *parts[1:]]) if parts else "Default")
    query = {"name": f"^{re.escape(name)}$", "only_fields": ["id", "name"], "search_hidden": True}
    for is_last_try in (False, True):
        for project in connection.call("projects", "get_all", **query)["projects"]:
            if project["name"] == name:
                return project["id"]
        try:
            return connection.call("projects", "create", name=name, description="")["id"]
        except ClearMLRefusedError as error:
            if is_last_try or not error.is_taken:  # another process was faster
                raise
    raise AssertionError("unreachable")


def _task_name(info: RunInfo) -> str:
    return clean(info.name or info.id).strip().ljust(MIN_NAME, "_")


def _property(tag: str) -> str:
    # our own properties, and what ClearML takes no empty name for
    return f"tag/{clean(tag)}" if not tag or tag.startswith(("tracelet_", "tag/")) else clean(tag)


def _shown(name: str, value: str) -> str:
    return clean(f"{name}:{value}" if value else name)[:MAX_SHOWN_TAG] or "tag"


def _id(reference: object) -> str:
    return str(reference.get("id", "")) if isinstance(reference, dict) else str(reference or "")  # pyright: ignore[reportUnknownArgumentType,reportUnknownMemberType]


def _seconds(text: object) -> float:
    try:
        parsed = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()
