"""A run's identity in AIM: its hash, row, parameters, labels and end."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.semconv import Status
from tracelet_otel_exporters.aim import private, sequences
from tracelet_otel_exporters.aim.changes import Change, Write
from tracelet_otel_exporters.aim.sequences import AimSequence, Store, valid_text

OURS: Final = "tracelet_run"
"""The parameter that holds what AIM has no place for: run id, status, project, experiment, labels."""

_HASH: Final = re.compile(r"[0-9a-f]{8,64}")
_STATUS_TAGS: Final = ("failed", "killed")
_INT64: Final = 2**63


@dataclass(slots=True)
class AimRun:
    """A run that is open in AIM and what is known of its content."""

    info: RunInfo
    store: Store
    files: str | None
    """URI of the folder for its files, or None where files are content of texts."""
    sequences: dict[tuple[Any, ...], AimSequence] = field(default_factory=dict[tuple[Any, ...], AimSequence])
    is_resumed: bool = True
    """It was there before: its companion files may have points of earlier processes."""
    in_companions: set[int] | None = None
    """What is in its companion files; None while that is not needed."""
    times: dict[tuple[Any, ...], int] = field(default_factory=dict[tuple[Any, ...], int])
    """By system metric: the time of its last measurement."""
    indexed: float = 0.0
    """When queries were last told of it, by the monotonic clock."""

    def sequence(self, name: str, context: Mapping[str, Any], dtype: str, kind: str) -> AimSequence:
        """The run's sequence of a name and a context, as it is now."""
        key = (name, dtype, kind if dtype != "float" else "", *sorted(context.items()))
        sequence = self.sequences.get(key)
        if sequence is None:
            sequence = self.sequences[key] = sequences.find(self.store, name, context, dtype, kind)
        else:
            sequences.refresh(self.store, sequence)
        return sequence


def run_hash(run_id: str) -> str:
    """AIM's name of a run: its id where that has AIM's form, else a hash of it, 24 hexadecimal digits."""
    if _HASH.fullmatch(run_id):
        return run_id
    return hashlib.sha256(run_id.encode(errors="surrogatepass")).hexdigest()[:24]


def open_run(store: Store, info: RunInfo) -> bool:
    """Makes the run or resumes it; it is in progress then. Returns whether it was there."""
    run = private.run_key(store.hash)
    changes = [Write("meta", (*run, "end_time"), None)]
    if is_new := store.read("meta", run) is None:
        # as aim.Run does: an empty object, so that the run has parameters at all
        changes += [Write("meta", (*run, "attrs"), {}), Write("meta", ("meta", "attrs"), {})]
    store.commit(changes)
    props = store.props()
    _untag(store, _STATUS_TAGS)
    texts = {name: valid_text(getattr(info, name)) for name in ("name", "project", "experiment")}
    described = {"run_id": info.id, "status": "running"}
    described |= {name: text for name, text in texts.items() if text}
    if info.name and props.name != described["name"]:
        props.name = described["name"]
    if info.parent:
        above = run_hash(info.parent)
        described |= {"parent": valid_text(info.parent), "parent_run": above}
        if (tag := f"parent:{above}") not in props.tags:
            props.add_tag(tag)
    experiment = described.get("experiment") or described.get("project") or valid_text(info.family)
    if experiment and props.experiment != experiment:
        props.experiment = experiment
    write_params(store, {OURS: described})
    if info.tags:
        write_tags(store, info.tags)
    return not is_new


def write_tags(store: Store, tags: Mapping[str, object]) -> None:
    """Labels as AIM's tags, ``name:value`` or ``name``, and exactly as a parameter.

    A label that gets another value loses the tag of its old one.
    """
    before: Any = store.read("meta", private.run_key(store.hash, "attrs", OURS, "tags")) or {}
    exact = {valid_text(name) or "_": valid_text(str(value)) for name, value in tags.items()}
    write_params(store, {OURS: {"tags": exact}})
    old = [_tag(name, before[name]) for name, value in exact.items() if before.get(name, value) != value]
    _untag(store, old)
    props = store.props()
    present = set(props.tags)
    for tag in dict.fromkeys(_tag(name, value) for name, value in exact.items()):
        if tag not in present:
            props.add_tag(tag)


def write_params(store: Store, params: Mapping[str, object]) -> list[str]:
    """Merges parameters into the run's.

    Returns: the names of those whose value AIM cannot hold, so that it is kept as text.
    """
    changed: list[str] = []
    changes: list[Change] = []
    for name, value in params.items():
        key = valid_text(name) or "_"
        place = private.run_key(store.hash, "attrs", key)
        merged = _merged(store.read("meta", place), value, name, changed)
        changes += [Write("meta", place, merged), Write("meta", ("meta", "attrs", key), merged)]
    store.commit(changes)
    return changed


def finish(store: Store, status: Status) -> None:
    """Writes status and end time."""
    write_params(store, {OURS: {"status": status}})
    _untag(store, [tag for tag in _STATUS_TAGS if tag != status])
    if status in _STATUS_TAGS and status not in (props := store.props()).tags:
        props.add_tag(status)
    store.commit([Write("meta", private.run_key(store.hash, "end_time"), time.time())])


def _tag(name: str, value: object) -> str:
    return f"{name}:{value}" if value != "" else name


def _untag(store: Store, tags: Sequence[str]) -> None:
    if tags:
        props = store.props()
        for tag in set(tags) & set(props.tags):
            props.remove_tag(tag)


def _merged(before: object, value: object, name: str, changed: list[str]) -> object:
    if isinstance(value, Mapping):
        merged = dict(cast("dict[str, object]", before)) if isinstance(before, dict) else {}
        for key, member in cast("Mapping[str, object]", value).items():
            valid = valid_text(str(key)) or "_"
            merged[valid] = _merged(merged.get(valid), member, f"{name}/{key}", changed)
        return merged
    if isinstance(value, (list, tuple)):
        return [_merged(None, member, name, changed) for member in cast("Sequence[object]", value)]
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, int) and not isinstance(value, bool) and not -_INT64 <= value < _INT64:
        changed.append(name)
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    changed.append(name)
    return valid_text(str(value))
