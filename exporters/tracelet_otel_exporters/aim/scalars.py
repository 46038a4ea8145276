"""Points as values of AIM's metrics. AIM keeps one a step; the others go into the companion file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tracelet_otel.otlp.records import Point, Series
from tracelet_otel.tracker.interface import Outcome, PointAside, Problem
from tracelet_otel_exporters.aim import sequences
from tracelet_otel_exporters.aim.changes import Change
from tracelet_otel_exporters.aim.runs import AimRun
from tracelet_otel_exporters.aim.sequences import MAX_STEP, AimSequence, Row

REPEATED: Final = "AIM keeps one value a step"
_INT64: Final = 2**63


def changes(run: AimRun, series: Series, outcome: Outcome, hashes: dict[int, int]) -> list[Change]:
    """What writes the points of a series; ``outcome`` gets what becomes of each."""
    name, context = sequences.name_and_context(series.tag, series.rank)
    try:
        sequence = run.sequence(name, context, "float", "scalar")
    except ValueError as error:
        outcome.accepted += len(series.points)
        outcome.aside += [PointAside(series.tag, series.rank, p, str(error)) for p in series.points]
        return []
    rows: dict[int, Row] = {}
    doubtful: list[Point] = []
    add = sequence.steps.add
    for point in series.points:
        step, value, time_unix_nano = point
        if not -_INT64 <= step < _INT64:
            outcome.rejected.append(Problem(series.tag, f"step {step} is not a 64-bit integer"))
            continue
        outcome.accepted += 1
        if not -MAX_STEP < step < MAX_STEP:
            reason = "AIM could take the step for another one"
            outcome.aside.append(PointAside(series.tag, series.rank, point, reason))
            continue
        time_us = (time_unix_nano + 500) // 1000
        verdict = add(step, time_us)
        if verdict == "new":
            rows[step] = Row(step, value, time_us)
        elif verdict == "same":
            doubtful.append(point)
        else:
            outcome.aside.append(PointAside(series.tag, series.rank, point, REPEATED))
    others = _others(run, sequence, doubtful, rows, hashes)
    outcome.aside += [PointAside(series.tag, series.rank, point, REPEATED) for point in others]
    return sequences.changes(run.store, sequence, list(rows.values()), hashes)


def _others(
    run: AimRun, sequence: AimSequence, points: Sequence[Point], rows: dict[int, Row], hashes: dict[int, int]
) -> list[Point]:
    """The points that have step and time of a value that is there, but another value.

    A point that is there already is written again: a failure may have left out the sequence's record.
    """
    unread = [point.step for point in points if point.step not in rows]
    known = sequences.stored(run.store, sequence, unread, hashes)
    others: list[Point] = []
    for point in points:
        row = rows.get(point.step)
        value = row.value if row else known.get(point.step, point.value)
        if repr(value) != repr(point.value):  # NaN is NaN, 0.0 is not -0.0
            others.append(point)
        elif row is None:
            rows[point.step] = Row(point.step, point.value, (point.time_unix_nano + 500) // 1000)
    return others
