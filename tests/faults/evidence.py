"""What a row left: what was logged, what the backends have, what waits in the spools, what was said."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.faults.trial import Trial
from tests.support.subject import StoredPoint
from tracelet_otel import semconv
from tracelet_otel.delivery.spool import reading
from tracelet_otel.otlp.decoding import decode_records, decode_series, parse_logs, parse_metrics

_NUMBER = r"([\d,]+) points?\b"


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
        return [folder for folder in reading.folders(self._trial.state) if folder.name == "file"]

    def points(self, run_id: str) -> dict[str, list[StoredPoint]]:
        """Every point by tag."""
        found: dict[str, list[StoredPoint]] = {}
        for folder in self._folders():
            for batch in reading.read(folder):
                if isinstance(batch.metrics, bytes):
                    _add_points(parse_metrics(batch.metrics), run_id, found)
        return found

    def status(self, run_id: str) -> str:
        """Of the newest status record, unless the run was described again after it."""
        found: list[tuple[int, str]] = [(0, "running")]
        for folder in self._folders():
            for batch in reading.read(folder):
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
        # What is in the agent's memory alone is lost with it, unless the backend is back before.
        dropped = _sum(rf"(?:dropped|only in memory of the agent \(process \d+\)) {_NUMBER}", said)
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


def waiting(state: Path, backend: str, run_id: str) -> dict[str, list[StoredPoint]]:
    """What waits for a backend in the spools: of agents what is not delivered, of sessions all."""
    found: dict[str, list[StoredPoint]] = {}
    for folder in reading.folders(state / "spool"):
        if backend in folder.name.split("+"):
            for batch in reading.read(folder):
                if isinstance(batch.metrics, bytes):
                    _add_points(parse_metrics(batch.metrics), run_id, found)
    return found


def _add_points(
    request: ExportMetricsServiceRequest, run_id: str, found: dict[str, list[StoredPoint]]
) -> None:
    for series in decode_series(request):
        if series.run_id == run_id:
            tag = f"{series.tag}/rank_{series.rank}" if series.rank else series.tag
            found.setdefault(tag, []).extend(StoredPoint(*point) for point in series.points)


def _sum(pattern: str, text: str) -> int:
    return sum(int(number.replace(",", "")) for number in re.findall(pattern, text))
