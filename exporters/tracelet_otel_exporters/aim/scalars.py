"""Points as values of AIM's metrics, of which AIM keeps one a step; the others go aside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tracelet_otel.otlp.records import Point, Series
from tracelet_otel.tracker.interface import Outcome, PointAside, Problem
from tracelet_otel_exporters.aim import points as aim_points
from tracelet_otel_exporters.aim.points import MAX_STEP, Row, Trace
from tracelet_otel_exporters.aim.runs import OpenRun
from tracelet_otel_exporters.aim.store import Change

REPEATED: Final = "AIM keeps one value a step"
_INT64: Final = 2**63


def changes(run: OpenRun, series: Series, outcome: Outcome, hashes: dict[int, int]) -> list[Change]:
    """What writes the points of a series; says in ``outcome`` which are accepted, aside or refused."""
    name, context = aim_points.place(series.tag, series.rank)
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
            outcome.rejected.append(Problem(series.tag, f"step {step} is no 64-bit integer"))
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
    outcome.aside += [
        PointAside(series.tag, series.rank, point, REPEATED)
        for point in _others(run, sequence, doubtful, rows, hashes)
    ]
    return aim_points.changes(run.store, sequence, list(rows.values()), hashes)


def _others(
    run: OpenRun, sequence: Trace, points: Sequence[Point], rows: dict[int, Row], hashes: dict[int, int]
) -> list[Point]:
    """Those of the points whose step and time are known that are not the ones known.

    The ones known are written again: the sequence's record may be what a failure left out.
    """
    unseen = [point.step for point in points if point.step not in rows]
    known = aim_points.stored(run.store, sequence, unseen, hashes)
    others: list[Point] = []
    for point in points:
        row = rows.get(point.step)
        value = row.value if row else known.get(point.step, point.value)
        if repr(value) != repr(point.value):  # NaN is NaN, 0.0 is not -0.0
            others.append(point)
        elif row is None:
            rows[point.step] = Row(point.step, point.value, (point.time_unix_nano + 500) // 1000)
    return others
