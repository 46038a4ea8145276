"""Parameters and tags in MLflow, which cuts long values and never changes a parameter.

Whatever MLflow does not hold completely is in the run's artifacts ``tracelet/params.json`` (a list of
values by parameter, oldest first) and ``tracelet/tags.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from tracelet_otel.tracker.interface import Outcome, Problem
from tracelet_otel_exporters.mlflow import artifacts as mlflow_artifacts
from tracelet_otel_exporters.mlflow import names
from tracelet_otel_exporters.mlflow import runs as mlflow_runs
from tracelet_otel_exporters.mlflow.connection import Connection, RefusedError
from tracelet_otel_exporters.mlflow.runs import MAX_PER_REQUEST, OpenRun
from tracelet_otel_exporters.shared.params import as_text, flatten

MAX_VALUE: Final = 6000
"""Characters of a parameter's value."""
PARAMS_FILE: Final = "tracelet/params.json"
TAGS_FILE: Final = "tracelet/tags.json"


def write_params(connection: Connection, run: OpenRun, params: Mapping[str, object]) -> Outcome:
    """Writes parameters, each on its own where MLflow refuses them together."""
    outcome = Outcome(accepted=1)
    texts: dict[str, str] = {}
    for name, value in flatten(params):
        key, text = names.encode(name), as_text(value)
        run.note("params", key, name)
        if len(text) > MAX_VALUE:
            _keep(run, name, value)
            outcome.lossy.append(Problem(name, f"value over {MAX_VALUE} characters is in {PARAMS_FILE}"))
            text = text[:MAX_VALUE]
        if texts.setdefault(key, text) != text:
            _keep(run, name, value)
            outcome.lossy.append(Problem(name, f"two values in one record; the second is in {PARAMS_FILE}"))
    refused = _log(connection, run, texts)
    for name, value in flatten(params):
        key = names.encode(name)
        if reason := refused.get(key):
            _keep(run, name, value)
            outcome.lossy.append(
                Problem(name, f"MLflow refused it, so it is only in {PARAMS_FILE}: {reason}")
            )
        elif run.params.get(key) not in (None, texts[key]):
            _keep(run, name, value)
            reason = f"MLflow keeps a parameter's first value; the newer one is in {PARAMS_FILE}"
            outcome.lossy.append(Problem(name, reason))
    if run.values_changed:
        _write_values(connection, run)
    return outcome


def write_tags(connection: Connection, run: OpenRun, tags: Mapping[str, object]) -> Outcome:
    """Writes tags; long values are cut, and whole in an artifact."""
    known = len(run.long_tags)
    valid = mlflow_runs.valid_tags(run, tags)
    mlflow_runs.set_tags(connection, run, valid)
    if len(run.long_tags) > known or any(name in run.long_tags for name in tags):
        merged = {**mlflow_artifacts.read_json(connection, run, TAGS_FILE), **run.long_tags}
        mlflow_artifacts.write_json(connection, run, TAGS_FILE, merged)
    reason = f"value over {mlflow_runs.MAX_TAG_VALUE} characters is in {TAGS_FILE}"
    return Outcome(1, [Problem(name, reason) for name in tags if name in run.long_tags])


def _write_values(connection: Connection, run: OpenRun) -> None:
    """Writes the values that only an artifact holds, with those of earlier and other processes."""
    if run.is_resumed:
        for name, values in mlflow_artifacts.read_json(connection, run, PARAMS_FILE).items():
            if isinstance(values, list):
                ours = run.values.get(name, [])
                before = cast("Sequence[object]", values)
                run.values[name] = [*before, *(value for value in ours if value not in before)]
    mlflow_artifacts.write_json(connection, run, PARAMS_FILE, run.values)
    run.values_changed = False


def _keep(run: OpenRun, name: str, value: object) -> None:
    values = run.values.setdefault(name, [])
    if value not in values:
        values.append(value)
        run.values_changed = True


def _log(connection: Connection, run: OpenRun, texts: Mapping[str, str]) -> dict[str, str]:
    """Logs those that MLflow does not have yet, and returns why it refused what it refused."""
    refused: dict[str, str] = {}
    for is_last_try in (False, True):
        new = [(key, text) for key, text in texts.items() if key not in run.params]
        try:
            for start in range(0, len(new), MAX_PER_REQUEST):
                _log_batch(connection, run, new[start : start + MAX_PER_REQUEST])
        except RefusedError as error:
            if not error.is_invalid:
                raise
            if not is_last_try:  # another process may have logged some of them since we looked
                with connection.calls():
                    run.params = dict(connection.client.get_run(run.id).data.params)
                continue
            refused = _log_one_by_one(connection, run, [item for item in new if item[0] not in run.params])
        break
    return refused


def _log_one_by_one(
    connection: Connection, run: OpenRun, params: Sequence[tuple[str, str]]
) -> dict[str, str]:
    refused: dict[str, str] = {}
    for item in params:
        try:
            _log_batch(connection, run, [item])
        except RefusedError as error:
            if not error.is_invalid:
                raise
            refused[item[0]] = str(error)
    return refused


def _log_batch(connection: Connection, run: OpenRun, params: Sequence[tuple[str, str]]) -> None:
    from mlflow.entities import Param

    with connection.calls():
        connection.store.log_batch(run.id, [], [Param(key, text) for key, text in params], [])
    run.params.update(params)
