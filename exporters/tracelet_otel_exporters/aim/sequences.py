"""A sequence of AIM and what AIM keeps about it, as ``aim.sdk.tracker.RunTracker`` writes both."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tracelet_otel_exporters.aim import private
from tracelet_otel_exporters.aim.changes import Array, Change, Rows, Write
from tracelet_otel_exporters.aim.local_store import LocalStore
from tracelet_otel_exporters.aim.private import Key
from tracelet_otel_exporters.aim.remote import RemoteStore
from tracelet_otel_exporters.shared.steps import Steps

Store = LocalStore | RemoteStore
"""One run in a repository."""

SYSTEM: Final = "__system__"
"""What the names of the machine's metrics begin with."""
MAX_STEP: Final = 2**53
"""From here on AIM's hashes of two steps can be equal: they are of floats."""

_METRIC_TYPES: Final = {"int", "float", "float64", "number"}
_ARRAYS: Final = ("val", "epoch", "time")


class AimRow(NamedTuple):
    """One value of a sequence."""

    step: int
    value: Any
    time_us: int
    """Since 1970. AIM keeps seconds as a float, which holds microseconds exactly."""
    listed: Any = None
    """What the run's record gets instead of the value, where that is big."""


@dataclass(slots=True)
class AimSequence:
    """One sequence: a name and a context in a run."""

    name: str
    context: Mapping[str, Any]
    context_id: int
    version: int
    dtype: str
    info: dict[str, Any] = field(default_factory=dict[str, Any])
    """AIM's own record of it; empty before the first value."""
    steps: Steps = field(default_factory=Steps)
    generation: int = 0


def valid_text(text: str) -> str:
    """Text that has a UTF-8 encoding; a lone surrogate becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def name_and_context(tag: str, rank: int | None) -> tuple[str, dict[str, Any]]:
    """Name and context of a tag.

    AIM takes any name but an empty one, and text that has a UTF-8 encoding, and hides the machine's metrics
    from those of the script. A tag that cannot be the name is in the context, so that no two become one.
    """
    text = valid_text(tag)
    name = text.removeprefix("__") if text.startswith(SYSTEM) else text or "_"
    context: dict[str, Any] = {} if name == tag else {"tag": text}
    if rank:
        context["rank"] = rank
    return name, context


def find(store: Store, name: str, context: Mapping[str, Any], dtype: str, kind: str) -> AimSequence:
    """The run's sequence for values of a type.

    AIM's sequences of all types share their names. Where the name has another type of values, ours gets
    ``kind`` into its context.
    """
    context_type = private.CONTEXT.get()
    candidates: list[dict[str, Any]] = [dict(context), {**context, "kind": kind}]
    stored = dtype
    for candidate in candidates:
        context_id: int = context_type(candidate).idx
        info: dict[str, Any] = store.read("meta", _record_key(store, context_id, name)) or {}
        stored = info.get("dtype", dtype)
        if stored == dtype or (dtype in _METRIC_TYPES and stored in _METRIC_TYPES):
            break
    else:
        raise ValueError(f"AIM has {name!r} as a sequence of {stored} already")
    version = info.get("version", 2 if dtype in _METRIC_TYPES else 1)
    found = AimSequence(name, candidate, context_id, version, dtype)
    _take(store, found, info)
    return found


def refresh(store: Store, sequence: AimSequence) -> None:
    """Looks at the run again, which another process may have written to."""
    if sequence.generation != store.generation:
        key = _record_key(store, sequence.context_id, sequence.name)
        _take(store, sequence, store.read("meta", key) or {})


def _take(store: Store, sequence: AimSequence, info: dict[str, Any]) -> None:
    if info != sequence.info:
        sequence.info = info
        sequence.steps = Steps(_known(store, sequence)) if info else Steps()
    sequence.generation = store.generation


def changes(store: Store, sequence: AimSequence, rows: Sequence[AimRow]) -> list[Change]:
    """What writes these values and updates the record; the sequence is then as if it were written."""
    if not rows:
        return []
    base = _values(store, sequence)
    made: list[Change] = []
    run = private.run_key(store.hash)
    place = (sequence.context_id, sequence.name)
    metric = sequence.version == 2
    if not sequence.info:
        made += [Array("seqs", (*base, name)) for name in (("step", *_ARRAYS) if metric else _ARRAYS)]
        for root in (("meta",), run):
            made.append(Write("meta", (*root, "contexts", sequence.context_id), dict(sequence.context)))
        listed = private.LISTED_AS[sequence.dtype]
        made.append(Write("meta", ("meta", "traces_types", sequence.dtype, *place), 1))
        made.append(Write("meta", (*run, "typed_traces", listed, *place), 1))
    elif sequence.dtype == "float" and sequence.info.get("dtype") == "int":
        # both kinds of numbers, as aim.sdk.utils.check_types_compatibility names them
        made.append(Write("meta", ("meta", "traces_types", "number", *place), 1))
    keys = [_key(sequence, row.step) for row in rows]

    def column(name: str, values: Iterable[Any]) -> Rows:
        return Rows("seqs", (*base, name), list(zip(keys, values, strict=True)))

    if metric:
        made += [column("step", (row.step for row in rows)), column("val", (row.value for row in rows))]
    else:
        made += [Write("seqs", (*base, "val", key), row.value) for key, row in zip(keys, rows, strict=True)]
    made += [column("epoch", (None for _ in rows)), column("time", (row.time_us / 1e6 for row in rows))]
    info = _updated(sequence, rows)
    for name, value in info.items():
        if name not in sequence.info or sequence.info[name] is not value:
            made.append(Write("meta", (*run, "traces", *place, name), value))
    sequence.info = info
    return made


def stored(store: Store, sequence: AimSequence, steps: Sequence[int]) -> dict[int, Any]:
    """The values that the run has of some steps."""
    if not steps or not sequence.info:
        return {}
    keys = {step: _key(sequence, step) for step in steps}
    found = store.values("seqs", (*_values(store, sequence), "val"), [*keys.values()])
    return {step: found[key] for step, key in keys.items() if key in found}


def _updated(sequence: AimSequence, rows: Iterable[AimRow]) -> dict[str, Any]:
    """AIM's record after these values, as ``RunTracker._update_sequence_info`` leaves it."""
    info = dict(sequence.info)
    count = info.get("last_step", -1) + 1
    low, high = info.get("min", float("inf")), info.get("max", float("-inf"))
    if sequence.dtype == "float" and info.get("dtype") == "int":
        info["dtype"] = "number"
    for step, full, _, listed in rows:
        value = full if listed is None else listed
        if count == 0:
            info["dtype"], info["version"] = sequence.dtype, sequence.version
            info["first"], info["first_step"] = value, step
        if step >= count:
            info["last"], info["last_step"] = value, step
            count = step + 1
        if sequence.version == 2:
            if value > high:
                info["max"] = high = value
            if value < low:
                info["min"] = low = value
    return info


def _known(store: Store, sequence: AimSequence) -> Iterable[tuple[int, int]]:
    base = _values(store, sequence)
    times = dict(store.items("seqs", (*base, "time")))
    if sequence.version == 2:
        steps = store.items("seqs", (*base, "step"))
    else:
        steps = ((step, step) for step in times)
    for key, step in steps:
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
            yield step, round(times[key] * 1e6)


def _key(sequence: AimSequence, step: int) -> int:
    return _hash(step) if sequence.version == 2 else step


@functools.lru_cache(1 << 13)
def _hash(step: int) -> int:
    return private.HASH.get()(step)


def _record_key(store: Store, context_id: int, name: str) -> Key:
    """Where AIM's own record of a sequence is."""
    return private.run_key(store.hash, "traces", context_id, name)


def _values(store: Store, sequence: AimSequence) -> Key:
    return private.values_key(store.hash, sequence.version == 2, sequence.context_id, sequence.name)


def last_time(store: Store, sequence: AimSequence) -> int:
    """Microseconds of the newest value, or a time before all."""
    known = _known(store, sequence) if sequence.info else ()
    return max((time_us for _, time_us in known), default=-(2**63))
