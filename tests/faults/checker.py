"""The one check of every row: what was logged is in the tracker or in the spool, once, with the right end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.faults.trial import DEADLINE_S, RUN_ID, SLACK_S, Trial
from tests.support.subject import StoredPoint
from tracelet_otel import semconv
from tracelet_otel.decoding import decode_records, decode_series, parse_logs, parse_metrics
from tracelet_otel.delivery import spool
from tracelet_otel.delivery.otlp_json import parse_line
from tracelet_otel.delivery.segments import SIGNALS, Position, adopted

SECOND_S = 1.0
"""What is lost at most without a word: ``OTEL_METRIC_EXPORT_INTERVAL``."""
HAND_OVER_S = 1.5
"""How long a collection and the way to the agent may take on a busy machine."""
_NUMBER = r"([\d,]+) points?\b"
_RIGHT_TIME_S = 60.0


class Place(Protocol):
    """Where a backend keeps runs: a :class:`~tests.support.subject.Subject`, or backend ``file``."""

    def points(self, run_id: str) -> dict[str, list[StoredPoint]]:
        """Every point by tag."""
        ...

    def status(self, run_id: str) -> str:
        """How the run ended."""
        ...


class Entry(NamedTuple):
    """A line of the journal."""

    at: float
    """Of ``time.monotonic()``."""
    wall: float
    """Of ``time.time()``, as the script has it."""
    thread: str
    tag: str
    step: int
    value: float

    @property
    def point(self) -> tuple[str, int]:
        """What names a point."""
        return self.tag, self.step


class FilePlace:
    """What backend ``file`` wrote."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def _folders(self) -> list[Path]:
        return [folder for folder in spool.folders(self._trial.state) if folder.name == "file"]

    def points(self, run_id: str) -> dict[str, list[StoredPoint]]:
        """Every point by tag."""
        found: dict[str, list[StoredPoint]] = {}
        for folder in self._folders():
            for batch in spool.read(folder):
                if isinstance(batch.metrics, bytes):
                    _add_points(parse_metrics(batch.metrics), run_id, found)
        return found

    def status(self, run_id: str) -> str:
        """Of the newest status record, unless the run was described again after it."""
        found: list[tuple[int, str]] = [(0, "running")]
        for folder in self._folders():
            for batch in spool.read(folder):
                if isinstance(batch.logs, bytes):
                    for record in decode_records(parse_logs(batch.logs)):
                        if record.run_id == run_id and record.kind in ("run", "status"):
                            ended = str(record.attributes.get(semconv.RUN_STATUS, "running"))
                            found.append((record.time_unix_nano, ended))
        return max(found, key=lambda item: (item[0], item[1] != "running"))[1]


@dataclass
class Line:
    """The numbers of a backend's closing lines, summed over the processes."""

    captured: int = 0
    delivered: int = 0
    left: int = 0
    """Spooled, or still with the agent."""
    dropped: int = 0
    processes: int = 0
    texts: list[str] = field(default_factory=list[str])


def entries(folder: Path) -> tuple[list[Entry], Entry | None]:
    """What the scripts logged, and the line by which one of them said that its end begins."""
    found: list[Entry] = []
    mark: Entry | None = None
    for line in (folder / "journal").read_text().splitlines():
        at, wall, thread, tag, step, value = line.split("\t")
        entry = Entry(float(at), float(wall), thread, tag, int(step), float(value))
        if tag:
            found.append(entry)
        else:
            mark = entry
    return found, mark


def closing_lines(text: str) -> dict[str, Line]:
    """By backend."""
    found: dict[str, Line] = {}
    for text_line in text.splitlines():
        if not (match := re.match(r"tracelet-otel: (\w+): captured (.*)", text_line)):
            continue
        said = re.split(r": | -> ", match[2])[0]
        line = found.setdefault(match[1], Line())
        captured = _sum(_NUMBER, said.split(", ")[0])
        dropped = _sum(rf"dropped {_NUMBER}", said)
        left = _sum(rf"(?:spooled|goes on with) {_NUMBER}", said)
        delivered = captured if "delivered all" in said else _sum(rf"delivered {_NUMBER}", said)
        assert captured == delivered + left + dropped, text_line
        line.captured += captured
        line.delivered += delivered
        line.left += left
        line.dropped += dropped
        line.processes += 1
        line.texts.append(text_line)
    return found


def waiting(state: Path, backend: str, run_id: str = RUN_ID) -> dict[str, list[StoredPoint]]:
    """What waits for a backend in the spools: of agents what is not delivered, of sessions all."""
    found: dict[str, list[StoredPoint]] = {}
    for folder in spool.folders(state / "spool"):
        if backend in folder.name.split("+"):
            for request in _requests(folder):
                _add_points(request, run_id, found)
    return found


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
        line = lines.get(name)
        if line is not None:
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


def _add_points(
    request: ExportMetricsServiceRequest, run_id: str, found: dict[str, list[StoredPoint]]
) -> None:
    for series in decode_series(request):
        if series.run_id == run_id:
            tag = f"{series.tag}/rank_{series.rank}" if series.rank else series.tag
            found.setdefault(tag, []).extend(StoredPoint(*point) for point in series.points)


def _requests(folder: Path) -> Iterator[ExportMetricsServiceRequest]:
    if (folder / "position").exists():
        position = Position(folder)
        segments = adopted(folder, position)
        position.close()
        for segment in segments:
            for signal in SIGNALS:
                path = segment.paths[signal]
                if path.exists():
                    for line in path.read_bytes()[segment.read[signal] :].splitlines():
                        request = parse_line(line)
                        if isinstance(request, ExportMetricsServiceRequest):
                            yield request
    else:
        for batch in spool.read(folder):
            if isinstance(batch.metrics, bytes):
                yield parse_metrics(batch.metrics)


def _sum(pattern: str, text: str) -> int:
    return sum(int(number.replace(",", "")) for number in re.findall(pattern, text))
