"""Thousands of small folders: an import that was killed goes on, and one that is repeated adds nothing."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.compat.proto import event_pb2
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from tests.cli.conftest import Backend, Output
from tests.support import mlflow_content as mlflow
from tests.support.scripts import clean_environment
from tracelet_otel.cli import event_folders
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.otlp.decoding import decode_records, decode_series, parse_logs, parse_metrics

Tracelet = Callable[..., Output]

STEPS = 3
TAGS = ("loss", "accuracy")
_EVENT: Any = getattr(event_pb2, "Event")  # noqa: B009 - made at run time, unknown to type checkers
_CHECKSUM: Any = pywrap_tensorflow.masked_crc32c

Row = tuple[str, str, int, float, int]
"""Run, tag, step, value, time in nanoseconds since 1970."""


def frame(event: Any) -> bytes:
    """A record of an event file."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"%b%b%b%b" % (length, _checksum(length), data, _checksum(data))


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", _CHECKSUM(data))


def write_runs(top: Path, count: int) -> list[Row]:
    """Folders with a few points each, without torch; every point by the name of its run."""
    rows: list[Row] = []
    for number in range(count):
        name = f"sweep{number // 100:02}/run{number:04}"
        content = frame(_EVENT(wall_time=1_700_000_000, file_version="brain.Event:2"))
        for step in range(STEPS):
            event = _EVENT(wall_time=1_700_000_000 + step, step=step)
            for place, tag in enumerate(TAGS):
                value = number + step / 4 + place / 8
                event.summary.value.add(tag=tag, simple_value=value)
                rows.append((name, tag, step, value, (1_700_000_000 + step) * 10**9))
            content += frame(event)
        (top / name).mkdir(parents=True)
        (top / name / "events.out.tfevents.1700000000.host.1.0").write_bytes(content)
    return rows


def kill_in_the_middle(command: list[str], state: Path, is_in_the_middle: Callable[[], bool]) -> None:
    """Runs a command and kills it once it is there."""
    environment = clean_environment(XDG_STATE_HOME=str(state))
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as importing:
        while not is_in_the_middle():
            assert importing.poll() is None, importing.communicate()
            time.sleep(0.02)  # a reader that never rests keeps the writer from writing
        importing.send_signal(signal.SIGKILL)
    assert importing.returncode == -signal.SIGKILL


def command(top: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tracelet_otel.cli", "import", str(top), *arguments]


def rows_of(spool: Path, names: dict[str, str]) -> list[Row]:
    """Every point of a spool, by the name of its run."""
    return [
        (names[series.run_id], series.tag, point.step, point.value, point.time_unix_nano)
        for batch in read(spool)
        if isinstance(batch.metrics, bytes)
        for series in decode_series(parse_metrics(batch.metrics))
        for point in series.points
    ]


def records_of(spool: Path) -> Counter[tuple[str, str]]:
    """How often a spool has each record, by kind and run."""
    return Counter(
        (record.kind, record.run_id)
        for batch in read(spool)
        if isinstance(batch.logs, bytes)
        for record in decode_records(parse_logs(batch.logs))
    )


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


@pytest.mark.timeout(120)
def test_a_spool_of_thousands_of_runs_goes_on_after_a_kill(tracelet: Tracelet, tmp_path: Path) -> None:
    top, spool = tmp_path / "logs", tmp_path / "out"
    count = 2_000
    rows = write_runs(top, count)
    arguments = ["--backend", "file", "--option", f"file.path={spool}"]
    kill_in_the_middle(
        command(top, *arguments), tmp_path / "state", lambda: len(list(spool.glob("*.jsonl"))) >= 100
    )
    names = {run.id: run.name for run in event_folders.find([top], one_run=False)}
    before = rows_of(spool, names)
    assert 100 < len(before) < len(rows)
    newest = max(spool.glob("*.jsonl"))
    os.truncate(newest, newest.stat().st_size - 10)  # as a kill in the middle of a write leaves it

    done = tracelet("import", top, *arguments)
    said = f"file: delivered {len(rows):,} points and {count:,} records -> {spool}\n"
    assert (done.code, done.out) == (0, f"{said}{count:,} of {count:,} runs read\n")
    assert sorted(rows_of(spool, names)) == sorted(rows)
    assert newest.read_bytes()[-1:] in (b"", b"\n")  # or replay would say that a line is incomplete
    kinds = ("run", "tags", "status")
    assert records_of(spool) == Counter({(kind, run): 1 for kind in kinds for run in names})
    assert len(list(spool.iterdir())) < count / 2

    whole = files_of(spool)
    done = tracelet("import", top, *arguments)
    assert (done.code, done.out) == (0, f"{said}{count:,} of {count:,} runs read\n")
    assert files_of(spool) == whole


@pytest.mark.timeout(120)
def test_many_runs_in_a_tracker_go_on_after_a_kill(
    tracelet: Tracelet, mlflow_backend: Backend, tmp_path: Path
) -> None:
    top, spool, database = tmp_path / "logs", tmp_path / "out", tmp_path / "mlflow" / "mlflow.db"
    rows = write_runs(top, 25)

    def stored() -> list[Row]:
        return sorted(
            (run.name, tag, point.step, point.value, point.timestamp_ms * 10**6)
            for run in mlflow.runs(database)
            for tag, points in mlflow.points(database, run.id).items()
            for point in points
        )

    kill_in_the_middle(
        command(top, *mlflow_backend.arguments), tmp_path / "state", lambda: len(mlflow.runs(database)) >= 6
    )
    assert len(stored()) < len(rows)
    for _ in range(2):  # the second time changes nothing
        done = tracelet("import", top, *mlflow_backend.arguments)
        assert (done.code, done.out.splitlines()[1]) == (0, "25 of 25 runs read")
        assert stored() == sorted(rows)
        assert {run.status for run in mlflow.runs(database)} == {"FINISHED"}

    # Nor does what went by way of a spool, in which several runs end together.
    assert tracelet("import", top, "-b", "file", "--option", f"file.path={spool}").code == 0
    done = tracelet("replay", spool, *mlflow_backend.arguments)
    assert (done.code, "no end of a run" in done.out) == (0, False)
    assert stored() == sorted(rows)
    assert [run.status for run in mlflow.runs(database)] == ["FINISHED"] * 25
