"""Finds or creates the ClearML task of a run id, also when many processes do it at once."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Final

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.semconv import Status
from tracelet_otel_exporters.clearml.connection import Connection, RefusedError
from tracelet_otel_exporters.clearml.names import Name, clean
from tracelet_otel_exporters.shared.steps import Steps

SETTLE_SECONDS: Final = 0.2
"""How long a new task waits for tasks of the same run that other ranks create at the same moment."""
RUN_ID: Final = "tracelet_run_id"
"""The user property that holds the run's id."""
NAME: Final = "tracelet_run_name"
"""The user property that holds the run's exact name: ClearML strips names, and they have 3 characters."""
MIN_NAME: Final = 3
DEFAULT_PROJECT: Final = "Default"
MAX_SHOWN_TAG: Final = 200
"""Characters; what is longer is whole in the user property."""
PAGE: Final = 10_000
"""Events a request, ClearML's limit."""

_TASK_ID: Final = re.compile(r"[0-9a-f]{32}")
_FIELDS: Final = ("id", "name", "status", "created", "project", "tags", "hyperparams")
_ENDS: Final[Mapping[Status, tuple[str, str]]] = {
    "finished": ("completed", ""),
    "failed": ("failed", "the run failed"),
    "killed": ("stopped", "the run was killed"),
}


@dataclass(slots=True)
class OpenRun:
    """A run of ours in ClearML and what is known of its content."""

    info: RunInfo
    id: str
    """The task's."""
    project: str
    """The project's id."""
    created: float
    """Seconds since 1970, by the server's clock: what machine measurements count their seconds from."""
    is_resumed: bool
    """Found, not created: other processes may have written to it."""
    tags: dict[str, str] = field(default_factory=dict[str, str])
    params: dict[str, str] = field(default_factory=dict[str, str])
    """What ClearML has."""
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


def open_run(connection: Connection, info: RunInfo) -> OpenRun:
    """Finds the task by its user property or its own id, else creates it; it is in progress then."""
    found = _by_property(connection, info.id) or _by_task_id(connection, info.id)
    is_resumed = bool(found)
    task = found[0] if found else _create(connection, info)
    if task["status"] in ("published", "publishing"):
        raise PermanentError(f"ClearML task {task['id']} is published, so nothing can be added to it")
    sections: Mapping[str, Mapping[str, Any]] = task.get("hyperparams") or {}
    run = OpenRun(
        info=info,
        id=task["id"],
        project=_id(task.get("project")),
        created=_seconds(task.get("created")),
        is_resumed=is_resumed,
        params={name: str(item.get("value", "")) for name, item in sections.get("General", {}).items()},
    )
    if is_resumed:
        describe(connection, run, info)
    else:
        write_tags(connection, run, info.tags)
    if task["status"] != "in_progress":
        _start(connection, run)
    return run


def describe(connection: Connection, run: OpenRun, info: RunInfo) -> None:
    """Updates what a person reads of the run: name and tags."""
    if info.name and (not run.info.name or info.name != run.info.name or run.is_resumed):
        connection.call("tasks", "update", task=run.id, name=_task_name(info))
        set_properties(connection, run, {NAME: info.name})
    write_tags(connection, run, info.tags)
    run.info = info


def write_tags(connection: Connection, run: OpenRun, tags: Mapping[str, object]) -> None:
    """Writes labels: as tags for people, and as user properties, which keep names and values exactly."""
    new = {name: text for name, value in tags.items() if run.tags.get(name) != (text := str(value))}
    if not new:
        return
    set_properties(connection, run, {_property(name): text for name, text in new.items()})
    found = connection.call("tasks", "get_all", id=[run.id], only_fields=["tags"], search_hidden=True)[
        "tasks"
    ]
    shown = set(found[0].get("tags") or ()) if found else set[str]()
    shown -= {_shown(name, run.tags[name]) for name in new if name in run.tags}
    shown |= {_shown(name, text) for name, text in new.items()}
    # ClearML reads a tag that begins so as an operator of its queries.
    connection.call(
        "tasks", "update", task=run.id, tags=sorted(tag for tag in shown if not tag.startswith("__$"))
    )
    run.tags.update(new)


def set_properties(connection: Connection, run: OpenRun, properties: Mapping[str, str]) -> None:
    """Sets user properties, which ClearML takes in every status."""
    items = [_item("properties", name, value) for name, value in properties.items()]
    connection.call("tasks", "edit_hyper_params", task=run.id, hyperparams=items, force=True)


def edit(connection: Connection, run: OpenRun, action: str, **data: Any) -> None:
    """Calls ``tasks.<action>``, which needs a task in progress.

    ClearML's server stops tasks from which it has not heard for long, and people stop them too: then it is
    put in progress again.
    """
    try:
        connection.call("tasks", action, task=run.id, force=True, **data)
    except RefusedError as error:
        if not error.is_status:
            raise
        _start(connection, run)
        connection.call("tasks", action, task=run.id, force=True, **data)


def finish(connection: Connection, run: OpenRun, status: Status) -> None:
    """Sets the final status, in ClearML's word for it."""
    action, message = _ENDS[status]
    data = {"task": run.id, "status_reason": message, "status_message": message}
    try:
        connection.call("tasks", action, **data)
    except RefusedError as error:
        if not error.is_status:
            raise
        _start(connection, run)
        connection.call("tasks", action, **data)


def known_steps(connection: Connection, run: OpenRun, name: Name) -> Steps:
    """The points of a scalar that ClearML has, each as its step and :func:`signature`."""
    if not run.is_resumed:
        return Steps()
    known: dict[int, int] = {}
    scroll: str | None = None
    while True:
        page = connection.call(
            *("events", "get_task_events"),
            task=run.id,
            event_type="training_stats_scalar",
            metrics=[{"metric": name.metric, "variants": [name.variant]}],
            batch_size=PAGE,
            scroll_id=scroll,
        )
        events: Sequence[Mapping[str, Any]] = page.get("events") or ()
        for event in events:  # an older server answers with all scalars
            if (event.get("metric"), event.get("variant")) == (name.metric, name.variant):
                known[int(event["iter"])] = signature(int(event["timestamp"]), float(event["value"]))
        if len(events) < PAGE:
            return Steps(known.items())
        scroll = page.get("scroll_id")


def signature(time: int, value: float) -> int:
    """One number for a point's time and value, so that another point of the same step is told from it."""
    return hash((time, value))


def url(connection: Connection, run: OpenRun) -> str:
    """Where a person finds the task."""
    if not connection.web_host:
        return f"{connection.host} task {run.id}"
    return f"{connection.web_host}/projects/{run.project or '*'}/experiments/{run.id}/output/log"


def _create(connection: Connection, info: RunInfo) -> Mapping[str, Any]:
    properties = {RUN_ID: info.id, **({NAME: info.name} if info.name else {})}
    made: str = connection.call(
        *("tasks", "create"),
        name=_task_name(info),
        type="training",
        project=_project(connection, info),
        hyperparams={
            "properties": {name: _item("properties", name, text) for name, text in properties.items()}
        },
    )["id"]
    time.sleep(SETTLE_SECONDS)
    found = _by_property(connection, info.id) or _by_task_id(connection, made)
    if found[0]["id"] != made:  # another process was faster
        connection.call("tasks", "delete", task=made, force=True)
    return found[0]


def _start(connection: Connection, run: OpenRun) -> None:
    # Forced, as for ClearML a failed task is over. Not reset, which would delete what it has.
    connection.call("tasks", "started", task=run.id, force=True, status_reason="", status_message="")


def _by_property(connection: Connection, run_id: str) -> list[Mapping[str, Any]]:
    """Tasks with this run's id, oldest first; every process sees the same order."""
    text = clean(run_id)
    found: list[Any] = connection.call(
        *("tasks", "get_all"),
        # the server ignores case, and has no other condition that takes any text
        _all_={"fields": [f"hyperparams.properties.{RUN_ID}.value"], "pattern": f"^{re.escape(text)}$"},
        only_fields=list(_FIELDS),
        order_by=["created"],
        search_hidden=True,
    )["tasks"]
    same = [task for task in found if task["hyperparams"]["properties"][RUN_ID]["value"] == text]
    return sorted(same, key=lambda task: (str(task.get("created")), str(task["id"])))


def _by_task_id(connection: Connection, run_id: str) -> list[Mapping[str, Any]]:
    if not _TASK_ID.fullmatch(run_id):
        return []
    return connection.call("tasks", "get_all", id=[run_id], only_fields=list(_FIELDS), search_hidden=True)[
        "tasks"
    ]


def _project(connection: Connection, info: RunInfo) -> str:
    parts = [part.strip() for part in f"{info.project}/{info.experiment}".split("/") if part.strip()]
    name = clean("/".join([parts[0].ljust(MIN_NAME, "_"), *parts[1:]]) if parts else DEFAULT_PROJECT)
    for is_last_try in (False, True):
        found: list[Mapping[str, str]] = connection.call(
            *("projects", "get_all"),
            name=f"^{re.escape(name)}$",
            only_fields=["id", "name"],
            search_hidden=True,
        )["projects"]
        for project in found:
            if project["name"] == name:
                return project["id"]
        try:
            return connection.call("projects", "create", name=name, description="")["id"]
        except RefusedError as error:
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


def _item(section: str, name: str, value: str) -> dict[str, str]:
    return {"section": section, "name": name, "value": clean(value), "type": "str", "description": ""}


def _id(reference: object) -> str:
    return str(reference.get("id", "")) if isinstance(reference, dict) else str(reference or "")  # pyright: ignore[reportUnknownArgumentType,reportUnknownMemberType]


def _seconds(text: object) -> float:
    try:
        parsed = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()
