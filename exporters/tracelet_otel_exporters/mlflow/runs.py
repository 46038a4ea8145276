"""Finds or creates the MLflow experiment and run of a run id, also when many processes do it at once."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.semconv import PARENT, RUN_ID
from tracelet_otel_exporters.mlflow import names, private
from tracelet_otel_exporters.mlflow.connection import MLflowConnection, MLflowRefusedError
from tracelet_otel_exporters.shared import safe_names

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

SETTLE_SECONDS: Final = 0.2
"""How long a new run waits for runs of the same id that other ranks create at the same moment."""

PARENT_RUN: Final = "mlflow.parentRunId"
"""MLflow's tag of a child run: MLflow's id of its parent."""
MAX_EXPERIMENT_NAME: Final = 500
MAX_TAG_VALUE: Final = 8000
MAX_PER_REQUEST: Final = 100
"""Parameters or tags."""

_MLFLOW_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")

Identity = tuple[int, int, "float | None"]
"""What MLflow knows a point of a key by: step, milliseconds, value (None: NaN)."""

Place = tuple[str, int]
"""A point's key and its number in its series."""


@dataclass(slots=True)
class MLflowRun:
    """A run of ours in MLflow and what is known of its content."""

    connection: MLflowConnection
    info: RunInfo
    id: str
    """MLflow's own id."""
    experiment_id: str
    is_resumed: bool
    """Found, not created: other processes may have written to it."""
    params: dict[str, str]
    """What MLflow has, which it never changes."""
    start_time_ms: int
    """When MLflow's run was created; that stays when it is resumed."""
    parent: str = ""
    """MLflow's id of its parent, once MLflow was told."""
    has_adopted: bool = False
    """Whether children were looked for that came before it."""
    values: dict[str, list[object]] = field(default_factory=dict[str, list[object]])
    """Full values of the parameters that MLflow has only a part of, oldest first."""
    long_tags: dict[str, str] = field(default_factory=dict[str, str])
    names: dict[str, dict[str, str]] = field(default_factory=dict[str, "dict[str, str]"])
    """By kind of name: changed name to original name."""
    files: dict[str, str] = field(default_factory=dict[str, str])
    """Artifact path to the digest of the record that is stored there."""
    latest: dict[str, dict[Identity, int | None]] = field(
        default_factory=dict[str, "dict[Identity, int | None]"]
    )
    """By key, the points in its latest millisecond, which the next write might repeat, and their numbers."""
    asides: set[Place] = field(default_factory=set["Place"])
    """Points that were set aside."""
    aside_before: set[int] | None = None
    """Identities of what is in companion files of earlier processes; None: not read yet."""
    first_readings: dict[str, float] = field(default_factory=dict[str, float])
    """Of what only grows, by name: MLflow's own begin with 0."""
    has_images: bool = False
    names_changed: bool = False
    """Since they were written to the run."""
    values_changed: bool = False

    def note(self, kind: str, changed: str, original: str) -> None:
        """Remembers a name that MLflow gets in another form."""
        if changed != original and self.names.setdefault(kind, {}).get(changed) != original:
            self.names[kind][changed] = original
            self.names_changed = True

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags whose names and values are valid."""
        from mlflow.entities import RunTag

        entities = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, len(entities), MAX_PER_REQUEST):
            with self.connection.calls():
                self.connection.store.log_batch(self.id, [], [], entities[start : start + MAX_PER_REQUEST])


def relate(run: MLflowRun, info: RunInfo, others: Mapping[str, MLflowRun]) -> None:
    """Tells MLflow of the run's parent, and children that came before the run of their parent.

    Child and parent may come in any order, from processes that know nothing of each other: each is in MLflow
    before it looks for the other, so that one of them finds it.

    Args:
        run: that is in MLflow.
        info: its description, maybe a new one.
        others: what is open here, by our ids: in whichever experiment.
    """
    connection = run.connection
    if info.parent and not run.parent:
        run.set_tags({PARENT: info.parent[:MAX_TAG_VALUE]})
        if (known := others.get(info.parent)) is not None:
            run.parent = known.id
        else:
            found = _by_tag(connection, run.experiment_id, info.parent)
            found = found or _by_mlflow_id(connection, info.parent)
            run.parent = found.info.run_id if found else ""
        if run.parent:
            run.set_tags({PARENT_RUN: run.parent})
    if info.family and not run.has_adopted:
        run.has_adopted = True
        for child in _with_tag(connection, run.experiment_id, PARENT, info.id):
            if PARENT_RUN not in child.data.tags:
                with contextlib.suppress(MLflowRefusedError), connection.calls():  # it was deleted
                    connection.client.set_tag(child.info.run_id, PARENT_RUN, run.id)


def open_run(connection: MLflowConnection, info: RunInfo) -> MLflowRun:
    """Finds the run by its tag or its MLflow id, else creates it; a resumed run is running again."""
    with connection.calls():
        experiment = _experiment(connection, info)
    run = _by_tag(connection, experiment.experiment_id, info.id) or _by_mlflow_id(connection, info.id)
    if run is None:
        run, is_resumed = _create(connection, experiment, info)
    else:
        is_resumed = True
        connection.set_status(run.info.run_id, "running", None, info.name or None)
    return MLflowRun(
        connection=connection,
        info=info,
        id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        is_resumed=is_resumed,
        params=dict(run.data.params),
        start_time_ms=int(run.info.start_time or 0),
        parent=run.data.tags.get(PARENT_RUN, ""),
    )


def _native_tags(connection: MLflowConnection) -> dict[str, str]:
    """What MLflow's own ``start_run`` fills "Source" and "Created by" with."""
    resolve, git = private.RESOLVE_TAGS.get(), private.GIT_CONTEXT.get()
    tags: dict[str, str] = {}
    if resolve is not None:
        with connection.calls():  # not git: MLflow starts git for it, and ours comes with the run
            tags = resolve(ignore=[git] if git else [])
    if "mlflow.source.name" not in tags:  # MLflow gives up on all of them where the user has no name
        with contextlib.suppress(OSError, KeyError, ImportError):
            tags["mlflow.user"] = getpass.getuser()
        tags["mlflow.source.name"] = (sys.argv[0] if sys.argv else "") or "<console>"
        tags["mlflow.source.type"] = "LOCAL"
    return {key: str(value)[:MAX_TAG_VALUE] for key, value in tags.items()}


def _experiment(connection: MLflowConnection, info: RunInfo) -> Experiment:
    client = connection.client
    name = "/".join(part for part in (info.project, info.experiment) if part)
    name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME", "")
    if not name and (given := os.environ.get("MLFLOW_EXPERIMENT_ID")):
        return _active(client.get_experiment(given))
    name = name or "Default"
    if len(name) > MAX_EXPERIMENT_NAME:
        name = names.encode(name)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            created = client.create_experiment(name, _artifact_location(connection, name))
            found = client.get_experiment(created)
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was faster
    if found is None:
        raise PermanentError(f"MLflow neither has nor creates the experiment {name!r}")
    return _active(found)


def _active(experiment: Experiment) -> Experiment:
    if experiment.lifecycle_stage != "active":
        raise PermanentError(
            f"experiment {experiment.name!r} was deleted in MLflow: restore it "
            f"(mlflow experiments restore --experiment-id {experiment.experiment_id}) or choose another name"
        )
    return experiment


def _artifact_location(connection: MLflowConnection, name: str) -> str | None:
    """MLflow's default, but for a process that left the folder in which its database was chosen."""
    if not connection.uri.startswith("sqlite"):
        return None
    with contextlib.suppress(OSError):
        if Path.cwd() == connection.folder:
            return None
    return (connection.folder / "mlruns" / safe_names.segment(name)).as_uri()


def _by_tag(connection: MLflowConnection, experiment_id: str, run_id: str) -> Run | None:
    """The oldest run that is not deleted; every process finds the same one."""
    found = _with_tag(connection, experiment_id, RUN_ID, run_id)
    return min(found, key=lambda run: (run.info.start_time, run.info.run_id), default=None)


def _with_tag(connection: MLflowConnection, experiment_id: str, tag: str, run_id: str) -> list[Any]:
    """Runs that have a run's id as a tag."""
    quote = '"' if "'" in run_id else "'"
    if quote in run_id:
        raise PermanentError(f"MLflow cannot search for a run id with both kinds of quotes: {run_id}")
    with connection.calls():
        return connection.client.search_runs([experiment_id], f"tags.`{tag}` = {quote}{run_id}{quote}")


def _by_mlflow_id(connection: MLflowConnection, run_id: str) -> Run | None:
    if not _MLFLOW_RUN_ID.fullmatch(run_id):
        return None
    try:
        with connection.calls():
            run = connection.client.get_run(run_id)
    except MLflowRefusedError as error:
        if error.is_gone:
            return None
        raise
    if run.info.lifecycle_stage != "active":
        raise PermanentError(f"run {run_id} was deleted in MLflow: restore it (mlflow runs restore) first")
    return run


def _create(connection: MLflowConnection, experiment: Experiment, info: RunInfo) -> tuple[Run, bool]:
    tags = {**_native_tags(connection), RUN_ID: info.id}
    with connection.calls():
        created = connection.client.create_run(
            experiment.experiment_id, tags=tags, run_name=info.name or None
        )
    # All ranks log their first point at about the same time. Those that created a run too have
    # written it by now or in a moment; then all take the oldest.
    time.sleep(SETTLE_SECONDS)
    oldest = _by_tag(connection, experiment.experiment_id, info.id)
    if oldest is None or oldest.info.run_id == created.info.run_id:
        return created, False
    with contextlib.suppress(MLflowRefusedError), connection.calls():
        connection.client.delete_run(created.info.run_id)
    return oldest, True
