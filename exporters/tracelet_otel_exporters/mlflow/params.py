"""Parameters and tags in MLflow, which cuts long values and never changes a parameter.

Whatever MLflow does not hold completely is in the run's artifacts ``tracelet/params.json`` (a list of
values by parameter, oldest first) and ``tracelet/tags.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from tracelet_otel.tracker.interface import Outcome, Problem
from tracelet_otel_exporters.mlflow import artifacts, names
from tracelet_otel_exporters.mlflow.connection import refused_ones
from tracelet_otel_exporters.mlflow.runs import MAX_PER_REQUEST, MAX_TAG_VALUE, MLflowRun
from tracelet_otel_exporters.shared.params import as_text, flatten

MAX_VALUE: Final = 6000
"""Characters of a parameter's value."""
PARAMS_FILE: Final = "tracelet/params.json"
TAGS_FILE: Final = "tracelet/tags.json"

_VCS_TAGS: Final = {
    "vcs.ref.head.revision": "mlflow.source.git.commit",
    "vcs.ref.head.name": "mlflow.source.git.branch",
    "vcs.repository.url.full": "mlflow.source.git.repoURL",
}
"""OpenTelemetry's attributes that MLflow has tags of its own for."""


def write_params(run: MLflowRun, params: Mapping[str, object]) -> Outcome:
    """Writes parameters, each on its own where MLflow refuses them together."""
    outcome = Outcome(accepted=1)

    def keep(name: str, value: object, reason: str) -> None:
        outcome.lossy.append(Problem(name, reason))
        values = run.values.setdefault(name, [])
        if value not in values:
            values.append(value)
            run.values_changed = True

    texts: dict[str, str] = {}
    for name, value in flatten(params):
        key, text = names.encode(name), as_text(value)
        run.note("params", key, name)
        if len(text) > MAX_VALUE:
            keep(name, value, f"value over {MAX_VALUE} characters is in {PARAMS_FILE}")
            text = text[:MAX_VALUE]
        if texts.setdefault(key, text) != text:
            keep(name, value, f"two values in one record; the second is in {PARAMS_FILE}")
    refused = _log(run, texts)
    for name, value in flatten(params):
        key = names.encode(name)
        if reason := refused.get(key):
            keep(name, value, f"MLflow refused it, so it is only in {PARAMS_FILE}: {reason}")
        elif run.params.get(key) not in (None, texts[key]):
            reason = f"MLflow keeps a parameter's first value; the newer one is in {PARAMS_FILE}"
            keep(name, value, reason)
    if run.values_changed:
        _write_values(run)
    return outcome


def write_tags(run: MLflowRun, tags: Mapping[str, object]) -> Outcome:
    """Writes tags; long values are cut, and whole in an artifact."""
    run.set_tags(valid_tags(run, tags))
    lossy = [name for name in tags if name in run.long_tags]
    if lossy:
        artifacts.write_json(run, TAGS_FILE, {**artifacts.read_json(run, TAGS_FILE), **run.long_tags})
    reason = f"value over {MAX_TAG_VALUE} characters is in {TAGS_FILE}"
    return Outcome(1, [Problem(name, reason) for name in lossy])


def valid_tags(run: MLflowRun, tags: Mapping[str, object]) -> dict[str, str]:
    """Tags as MLflow takes them; what is cut is remembered in ``run``."""
    valid: dict[str, str] = {}
    for name, value in tags.items():
        key, text = names.encode(name), str(value)
        run.note("tags", key, name)
        run.long_tags.pop(name, None)
        if len(text) > MAX_TAG_VALUE:
            run.long_tags[name] = text
        valid[key] = text[:MAX_TAG_VALUE]
        if own := _VCS_TAGS.get(name):
            valid.setdefault(own, valid[key])
    return valid


def _write_values(run: MLflowRun) -> None:
    """Writes the values that only an artifact holds, with those of earlier and other processes."""
    if run.is_resumed:
        for name, values in artifacts.read_json(run, PARAMS_FILE).items():
            if isinstance(values, list):
                before = cast("Sequence[object]", values)
                ours = run.values.get(name, [])
                run.values[name] = [*before, *(value for value in ours if value not in before)]
    artifacts.write_json(run, PARAMS_FILE, run.values)
    run.values_changed = False


def _log(run: MLflowRun, texts: Mapping[str, str]) -> dict[str, str]:
    """Logs those that MLflow does not have yet, and returns why it refused what it refused."""
    from mlflow.entities import Param

    connection = run.connection

    def log(params: Sequence[tuple[str, str]]) -> None:
        with connection.calls():
            connection.store.log_batch(run.id, [], [Param(key, text) for key, text in params], [])
        run.params.update(params)

    refused: dict[str, str] = {}
    for _ in range(2):
        new = [(key, text) for key, text in texts.items() if key not in run.params]
        pages = [new[start : start + MAX_PER_REQUEST] for start in range(0, len(new), MAX_PER_REQUEST)]
        refused = {key: reason for page in pages for (key, _), reason in refused_ones(page, log)}
        if not refused:
            break
        with connection.calls():  # another process may have logged some of them since we looked
            run.params = dict(connection.client.get_run(run.id).data.params)
    return refused
