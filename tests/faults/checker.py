"""The one check of every row: what was logged is in the tracker or in the spool, once, with the right end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from tests.faults.evidence import Entry, Line, Place, closing_lines, entries, waiting
from tests.faults.trial import DEADLINE_S, RUN_ID, SLACK_S, Trial
from tests.support.subject import StoredPoint

SECOND_S = 1.0
"""What is lost at most without a word: ``OTEL_METRIC_EXPORT_INTERVAL``."""
HAND_OVER_S = 1.5
"""How long a collection and the way to the agent may take on a busy machine."""
_RIGHT_TIME_S = 60.0


def check(
    trial: Trial,
    places: Mapping[str, Place],
    *,
    status: str = "finished",
    code: int = 0,
    silent: bool = False,
    certain_until: float | None = None,
    drops: Iterable[str] = (),
    repeats: bool = False,
    run_id: str = RUN_ID,
) -> dict[str, Line]:
    """Fails unless the row's script left what it should; the closing lines.

    Args:
        trial: whose script and agents have ended.
        places: the backends.
        status: the run's, in every tracker that was reached.
        code: the script's exit code.
        silent: it ended without a word, as by SIGKILL: no closing line, and the last second may be lost.
        certain_until: what was logged after it, of ``time.monotonic()``, may be kept or not; else everything
            is, up to the journal's mark.
        drops: the backends that have no place for all points, and say so.
        repeats: whether a request may wait that was carried out without an answer.
        run_id: of the run that is looked at.
    """
    assert trial.code == code, trial.err
    logged, mark = entries(trial.folder)
    end_began = certain_until or (mark or logged[-1]).at
    assert trial.ended_at - end_began <= DEADLINE_S + SLACK_S
    certain = logged
    if silent and certain_until is None:
        certain = [entry for entry in logged if entry.at < end_began - SECOND_S - HAND_OVER_S]
    elif certain_until is not None or mark is not None:
        certain = _before(logged, end_began, mark.thread if mark else "")
    assert certain
    lines = closing_lines(trial.err)
    assert bool(lines) is not silent, trial.err
    for name, place in places.items():
        wanted = None if name in drops else certain
        kept = check_points(trial, name, place, logged, wanted, run_id, repeats=repeats)
        if not silent:
            line = lines[name]
            assert line.captured - line.dropped == kept.all, (line.texts, kept)
            assert bool(line.dropped) == (name in drops), line.texts
            assert line.delivered <= kept.stored, (line.texts, kept)
        full = name == "file" and name in drops  # there may be no place for the run's end
        if kept.stored and not kept.spooled and not full:
            ended = "running" if silent and name == "file" else status
            assert place.status(run_id) == ended, f"{name}\n{trial.agents.log()}"
    return lines


class Kept(NamedTuple):
    """Numbers of points."""

    stored: int
    """The backend has."""
    spooled: int
    """Wait for it."""
    all: int


def check_points(
    trial: Trial,
    name: str,
    place: Place,
    logged: list[Entry],
    certain: list[Entry] | None,
    run_id: str,
    *,
    repeats: bool = False,
) -> Kept:
    """Fails if a point of a run is wrong, missing, or there twice.

    Args:
        trial: whose script and agents have ended.
        name: the backend's.
        place: the backend.
        logged: everything that may be there.
        certain: what must be; None if nothing of it is.
        run_id: the run's.
        repeats: whether what is there may wait too.
    """
    stored = place.points(run_id)
    spooled = waiting(trial.state, name, run_id) if name != "file" else {}
    by_point = {entry.point: entry for entry in logged}
    assert len(by_point) == len(logged), "a row logs each tag and step once"
    there, left = Counter(_points(stored, by_point)), Counter(_points(spooled, by_point))
    found = there | left
    twice = [point for point, times in (there + left).items() if times > 1]
    if repeats:
        twice = [point for point in twice if there[point] > 1 or left[point] > 1]
    assert not twice, f"{name} has {len(twice)} points twice: {twice[:10]}"
    if certain is not None:
        lost = [entry for entry in logged if entry.point not in found]
        # Within a thread, what is lost is the newest.
        newest = {entry.thread: entry for entry in logged if entry.point in found}
        holes = [entry for entry in lost if entry.thread in newest and entry.at < newest[entry.thread].at]
        assert not holes, f"{name} lacks {len(holes)} points before later ones: {holes[:10]}"
        missing = [entry for entry in certain if entry.point not in found]
        assert not missing, f"{name} lacks {len(missing)} of {len(logged)} points: {missing[:10]}"
    return Kept(there.total(), left.total(), len(found))


def _before(logged: list[Entry], until: float, thread: str) -> list[Entry]:
    """What was logged before; of each but that thread not the last one, which it may just have begun to."""
    before = [entry for entry in logged if entry.at < until]
    last = {entry.thread: entry for entry in before}
    return [entry for entry in before if entry.thread == thread or entry is not last[entry.thread]]


def _points(
    found: dict[str, list[StoredPoint]], by_point: dict[tuple[str, int], Entry]
) -> Iterator[tuple[str, int]]:
    """Names the points, if they are what the journal says: no other, of this value, at this time."""
    for tag, points in found.items():
        if tag.startswith("system/"):  # of the machine
            continue
        for point in points:
            entry = by_point.get((tag, point.step))
            assert entry is not None, f"nobody logged {tag} at {point.step}"
            assert point.value == entry.value, (tag, point, entry)
            assert abs(point.time_unix_nano / 1e9 - entry.wall) < _RIGHT_TIME_S, (tag, point, entry)
            yield tag, point.step
