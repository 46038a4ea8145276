"""Points as values of AIM's metrics: those of the script, and measurements of the machine.

Measurements are under the names, and in the units, of AIM's own resource tracking: ``__system__cpu`` and
``__system__p_memory_percent`` (of the process), ``__system__memory_percent``, ``__system__disk_percent``, and
per GPU ``__system__gpu``, ``__system__gpu_memory_percent``, ``__system__gpu_temp``,
``__system__gpu_power_watts`` (aim/ext/resource/stat.py). What it has no name for gets one of that form, with
OpenTelemetry's name and unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tracelet_otel.otlp.records import Point, Series, SystemPoint
from tracelet_otel.tracker.interface import Outcome, PointAside, Problem
from tracelet_otel_exporters.aim import sequences
from tracelet_otel_exporters.aim.changes import Change
from tracelet_otel_exporters.aim.runs import AimRun
from tracelet_otel_exporters.aim.sequences import MAX_STEP, SYSTEM, AimRow
from tracelet_otel_exporters.shared.machine import Reading, readings

REPEATED: Final = "AIM keeps one value a step"
_INT64: Final = 2**63
_NAMES: Final[Mapping[str, str]] = {
    "cpu": "cpu_percent",
    "cpu_core": "cpu_percent",
    "process_cpu": "cpu",
    "process_memory_percent": "p_memory_percent",
    "process_memory_bytes": "p_memory_bytes",
    "process_threads": "p_threads",
    "gpu_utilization": "gpu",
    "gpu_temperature_celsius": "gpu_temp",
}
"""By quantity, where AIM's name is another."""


def logged(run: AimRun, series: Series, outcome: Outcome) -> list[Change]:
    """What writes the points of a series; ``outcome`` gets what becomes of each."""

    def set_aside(point: Point, reason: str) -> None:
        outcome.aside.append(PointAside(series.tag, series.rank, point, reason))

    name, context = sequences.name_and_context(series.tag, series.rank)
    try:
        sequence = run.sequence(name, context, "float", "scalar")
    except ValueError as error:
        outcome.accepted += len(series.points)
        for point in series.points:
            set_aside(point, str(error))
        return []
    rows: dict[int, AimRow] = {}
    doubtful: list[Point] = []
    for point in series.points:
        step, value, time_unix_nano = point
        if not -_INT64 <= step < _INT64:
            outcome.rejected.append(Problem(series.tag, f"step {step} is not a 64-bit integer"))
            continue
        outcome.accepted += 1
        if not -MAX_STEP < step < MAX_STEP:
            set_aside(point, "AIM could take the step for another one")
            continue
        time_us = (time_unix_nano + 500) // 1000
        verdict = sequence.steps.add(step, time_us)
        if verdict == "new":
            rows[step] = AimRow(step, value, time_us)
        elif verdict == "same":
            doubtful.append(point)
        else:
            set_aside(point, REPEATED)
    # These have step and time of a value that is there. One that has its value too is written again: a
    # failure may have left out the sequence's record.
    known = sequences.stored(run.store, sequence, [one.step for one in doubtful if one.step not in rows])
    for point in doubtful:
        row = rows.get(point.step)
        value = row.value if row else known.get(point.step, point.value)
        if repr(value) != repr(point.value):  # NaN is NaN, 0.0 is not -0.0
            set_aside(point, REPEATED)
        elif row is None:
            rows[point.step] = AimRow(point.step, point.value, (point.time_unix_nano + 500) // 1000)
    return sequences.changes(run.store, sequence, list(rows.values()))


def measured(run: AimRun, points: Sequence[SystemPoint]) -> list[Change]:
    """What writes measurements of the machine; their steps count them."""
    changes: list[Change] = []
    for reading in readings(points):
        name = SYSTEM + _NAMES.get(reading.quantity, reading.quantity)
        context = _context(reading)
        key = (name, *context.items())
        sequence = run.sequence(name, context, "float", "system")
        if key not in run.times:
            run.times[key] = sequences.last_time(run.store, sequence)
        time_us = (reading.time_unix_nano + 500) // 1000
        if time_us <= run.times[key]:
            continue  # it came before: a retry
        run.times[key] = time_us
        row = AimRow(sequence.info.get("last_step", -1) + 1, reading.value, time_us)
        changes += sequences.changes(run.store, sequence, [row])
    return changes


def _context(reading: Reading) -> dict[str, Any]:
    if not reading.part:
        return {}
    if not reading.is_known:
        return {"attributes": reading.part}
    key = "gpu" if reading.quantity.startswith("gpu_") else "cpu"
    return {key: int(reading.part) if reading.part.isdecimal() else reading.part}
