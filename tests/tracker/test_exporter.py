"""What the exporter does around any tracker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fifth_tracker.json_folder import JsonFolderTracker
from tests.support.contract_data import NOW, Script
from tracelet_otel.foundation.errors import TransientError
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics
from tracelet_otel.otlp.records import Record, Series
from tracelet_otel.tracker.exporter import TrackerExporter
from tracelet_otel.tracker.interface import Outcome, PointAside, RecordAside


class Forgetful(JsonFolderTracker):
    """Keeps nothing natively, and fails once at the second thing it is asked for."""

    asked = 0

    def _fail_once(self) -> None:
        self.asked += 1
        if self.asked == 2:
            raise TransientError("try again")

    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:
        self._fail_once()
        aside = [PointAside(one.tag, one.rank, point, "forgotten") for one in series for point in one.points]
        return Outcome(len(aside), aside=list(aside))

    def write_record(self, record: Record) -> Outcome:
        self._fail_once()
        return Outcome(1, aside=[RecordAside(record, "forgotten")])


@pytest.mark.parametrize("signal", ["metrics", "logs"])
def test_a_retry_of_a_request_sets_nothing_aside_twice(tmp_path: Path, signal: str) -> None:
    requests: list[bytes] = []
    for run_id in ("one", "two"):
        script = Script(run_id)
        if signal == "metrics":
            script.log("loss", 1, 0.5, NOW)
            requests += [request.data for request in script.collect() if request.signal == signal]
        else:
            requests += [one.data for one in script.record("text", "note", 1, b"hello", "text/plain")]
    parse = parse_metrics if signal == "metrics" else parse_logs
    both = parse(requests[0])
    both.MergeFromString(requests[1])
    data = both.SerializeToString()

    exporter = TrackerExporter(Forgetful(tmp_path / "runs"), companions=tmp_path / "companions")
    exporter.connect()
    write = exporter.write_metrics if signal == "metrics" else exporter.write_logs
    with pytest.raises(TransientError):
        write(data)
    assert write(data).accepted == 2
    kept = [line for path in (tmp_path / "companions").iterdir() for line in path.read_text().splitlines()]
    assert len(kept) == 2
    assert {json.loads(line)["reason"] for line in kept} == {"forgotten"}
    exporter.close()
