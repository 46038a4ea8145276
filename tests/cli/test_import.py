from __future__ import annotations

import json
import math
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import POINTS, Backend, Logged, Output
from tests.support import mlflow_content as mlflow
from tests.support.scripts import clean_environment
from tracelet_otel.cli import event_folders
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.otlp.decoding import decode_records, decode_series, parse_logs, parse_metrics
from tracelet_otel.otlp.records import Point, Record

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``declarative_base"),  # AIM: SQLAlchemy
]

Tracelet = Callable[..., Output]


def stored_points(spool: Path) -> dict[str, list[Point]]:
    """A spool's points by tag, in the order of the steps."""
    found: dict[str, list[Point]] = {}
    for batch in read(spool):
        if isinstance(batch.metrics, bytes):
            for series in decode_series(parse_metrics(batch.metrics)):
                found.setdefault(series.tag, []).extend(series.points)
    return {tag: sorted(points, key=repr) for tag, points in found.items()}


def stored_records(spool: Path) -> list[Record]:
    """A spool's records."""
    return [
        record
        for batch in read(spool)
        if isinstance(batch.logs, bytes)
        for record in decode_records(parse_logs(batch.logs))
    ]


def comparable(record: Record) -> tuple[Any, ...]:
    """What is the same live and imported: an event file has no other times, and integers as floats."""
    content = record.read()
    if record.kind == "params":
        content = repr(sorted(json.loads(content).items())).encode()
    attributes = {
        k: v for k, v in record.attributes.items() if not k.startswith(("tracelet.run", "tracelet.payload"))
    }
    return record.kind, record.tag, record.step, record.mime_type, content, repr(sorted(attributes.items()))


def test_as_one_run_it_is_what_was_recorded_live(
    tracelet: Tracelet, logged_by_each: Logged, tmp_path: Path
) -> None:
    logs = logged_by_each.folder / "logs"
    done = tracelet("import", logs, "--one-run", "-b", "file", "--option", f"file.path={tmp_path}/out")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"file: delivered {POINTS} points and 10 records -> {tmp_path}/out\n")
    (params,) = [json.loads(one.read()) for one in stored_records(tmp_path / "out") if one.kind == "params"]
    assert params == {"lr": 0.1, "name": "x", "api_key": "***"}
    live, imported = stored_points(logged_by_each.spool), stored_points(tmp_path / "out")
    assert imported.keys() == live.keys()
    for tag, points in live.items():
        assert repr(imported[tag]) == repr(points)
    assert imported["train/loss"][1].value == 0.25
    assert len(imported["edge"]) == 6
    ours = [record for record in stored_records(tmp_path / "out") if record.kind not in ("run", "status")]
    theirs = [
        record
        for record in stored_records(logged_by_each.spool)
        if record.kind not in ("run", "status", "environment")
    ]
    assert Counter(map(comparable, ours)) == Counter(map(comparable, theirs))
    kinds = {"tags", "text", "image", "histogram", "params", "pr_curve", "embedding", "audio"}
    assert {record.kind for record in ours} >= kinds


def test_each_folder_is_a_run_as_tensorboard_shows_it(
    tracelet: Tracelet, logged: Logged, mlflow_backend: Backend, tmp_path: Path
) -> None:
    named = ["--project", "old", "--experiment", "first"]
    done = tracelet("import", tmp_path / "logs", *mlflow_backend.arguments, *named)
    assert done.code == 0
    assert "4 of 4 runs read" in done.out
    database = tmp_path / "mlflow" / "mlflow.db"
    runs = {run.name: run for run in mlflow.runs(database)}
    (hparams,) = [name for name in runs if name[0].isdigit()]
    assert sorted(runs) == sorted(["logs", "parts_all_a", "parts_all_b", hparams])
    assert {(run.experiment, run.status) for run in runs.values()} == {("old/first", "FINISHED")}
    assert mlflow.params(database, runs[hparams].id) == {"lr": "0.1", "name": "x", "api_key": "***"}
    assert list(mlflow.points(database, runs["parts_all_a"].id)) == ["parts/all"]
    assert mlflow.tags(database, runs["logs"].id)["tensorboard.log_dir"] == str(tmp_path / "logs")


def write(folder: Path, steps: range, tag: str = "loss", **options: Any) -> Path:
    """An event file; its path."""
    from torch.utils.tensorboard import SummaryWriter

    before = set(folder.glob("*"))
    writer = SummaryWriter(str(folder), **options)
    for step in steps:
        value = float("nan") if step % 10 == 9 else step / 10
        writer.add_scalar(tag, value, step, walltime=1_700_000_000 + step)
    writer.close()
    (path,) = set(folder.glob("*")) - before
    return path


def test_again_after_more_was_written_each_point_is_there_once(
    tracelet: Tracelet, backend: Backend, tmp_path: Path
) -> None:
    first = write(tmp_path / "logs", range(50))
    second = write(tmp_path / "logs", range(50, 100))
    (run,) = event_folders.find([tmp_path / "logs"], one_run=False)
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) * 2 // 3])  # it was being written
    moved = shutil.move(second, tmp_path / "later")
    counts: list[int] = []
    for _ in range(2):
        done = tracelet("import", tmp_path / "logs", *backend.arguments)
        assert done.code == 0
        assert "the last record is cut off" in done.err
        counts.append(sum(map(len, backend.subject.points(run.id).values())))
    assert 20 < counts[0] == counts[1] < 50
    first.write_bytes(whole)
    shutil.move(moved, second)
    for _ in range(2):
        assert tracelet("import", tmp_path / "logs", *backend.arguments).code == 0
    stored = backend.subject.points(run.id)["loss"]
    lines = {
        line
        for name, data in backend.subject.files(run.id).items()
        if "companion" in name
        for line in data.splitlines()
    }
    aside = [json.loads(line) for line in lines]
    steps = [point.step for point in stored] + [line["step"] for line in aside]
    assert sorted(steps) == list(range(100))
    for point in stored:
        assert point.time_unix_nano == (1_700_000_000 + point.step) * 10**9
        assert math.isnan(point.value) if point.step % 10 == 9 else point.value == point.step / 10
    assert backend.subject.status(run.id) == "finished"


def count(database: Path) -> int:
    """Points in MLflow's database."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("select count(*) from metrics").fetchone()[0]


def test_killed_at_any_point_and_run_again_each_point_is_there_once(
    mlflow_backend: Backend, tmp_path: Path
) -> None:
    for number in range(2):
        write(tmp_path / "logs" / f"run{number}", range(3000))
    command = [sys.executable, "-m", "tracelet_otel.cli", "import", str(tmp_path / "logs")]
    command += mlflow_backend.arguments
    environment = clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))
    database = tmp_path / "mlflow" / "mlflow.db"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as importing:
        while count(database) <= 2000:
            assert importing.poll() is None
            time.sleep(0.02)  # a reader that never rests keeps the writer from writing
        importing.send_signal(signal.SIGKILL)
    interrupted = count(database)
    assert 2000 < interrupted < 6000
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs = mlflow.runs(database)
    assert sorted(run.name for run in runs) == ["run0", "run1"]
    for run in runs:
        assert sorted(point.step for point in mlflow.points(database, run.id)["loss"]) == list(range(3000))


def test_a_damaged_file_costs_its_own_rest(
    tracelet: Tracelet, mlflow_backend: Backend, tmp_path: Path
) -> None:
    bad = write(tmp_path / "logs" / "bad", range(100))
    write(tmp_path / "logs" / "good", range(100))
    empty = tmp_path / "logs" / "empty" / "events.out.tfevents.1.x"
    empty.parent.mkdir()
    empty.touch()
    content = bytearray(bad.read_bytes())
    content[len(content) // 2] ^= 0xFF
    bad.write_bytes(content)
    done = tracelet("import", tmp_path / "logs", *mlflow_backend.arguments)
    assert done.code == 1
    assert f"left out: {bad}: damaged after " in done.err
    assert "1 damaged file; the rest was read" in done.out
    assert "3 of 3 runs read" in done.out
    database = tmp_path / "mlflow" / "mlflow.db"
    counts = {run.name: len(mlflow.points(database, run.id)["loss"]) for run in mlflow.runs(database)}
    assert counts.keys() == {"bad", "good"}
    assert counts["good"] == 100
    assert 40 < counts["bad"] < 60


def test_a_dry_run_lists_and_writes_nothing(tracelet: Tracelet, tmp_path: Path) -> None:
    write(tmp_path / "logs" / "a", range(10))
    write(tmp_path / "logs" / "b" / "c", range(2345))
    done = tracelet("import", tmp_path / "logs", "--dry-run")
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert [(row[0], row[1], row[-1]) for row in rows[1:-1]] == [("10", "1", "a"), ("2,345", "1", "b/c")]
    assert rows[-1][0] == "2,355"
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_values_are_exact(tracelet: Tracelet, tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "logs"))
    singles = np.random.default_rng(0).standard_normal(500).astype(np.float32) * np.float32(1e-5)
    for step, value in enumerate(singles):
        writer.add_scalar("single", value, step)
    writer.add_scalar("double", 0.1234567890123456789, 2**40, new_style=True, double_precision=True)
    writer.add_scalar("dated", 0.001, -5, walltime=1_500_000_000.125)
    writer.close()
    done = tracelet("import", tmp_path / "logs", "-b", "file", "--option", f"file.path={tmp_path}/out")
    assert done.code == 0
    stored = stored_points(tmp_path / "out")
    found = [point.value for point in sorted(stored["single"])]
    assert [struct.pack("<f", value) for value in found] == [struct.pack("<f", value) for value in singles]
    assert all(len(repr(value)) < 16 for value in found)
    assert stored["double"][0][:2] == (2**40, 0.1234567890123456789)
    (dated,) = stored["dated"]
    assert dated[:2] == (-5, 0.001)
    assert abs(dated.time_unix_nano - 1_500_000_000_125_000_000) < 256  # what a float64 of seconds can tell


def test_a_large_payload_is_a_file_of_the_spool(tracelet: Tracelet, tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    text = "long " * 500_000
    writer = SummaryWriter(str(tmp_path / "logs"))
    writer.add_text("text", text, 1)
    writer.close()
    done = tracelet("import", tmp_path / "logs", "-b", "file", "--option", f"file.path={tmp_path}/out")
    assert done.code == 0
    assert sum(path.stat().st_size for path in (tmp_path / "out" / "media").iterdir()) == len(text)
    (record,) = [record for record in stored_records(tmp_path / "out") if record.kind == "text"]
    assert record.read() == text.encode()


def test_runs_are_found_once_links_followed(tmp_path: Path) -> None:
    for name in ("a", "b/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "events.out.tfevents.1.host").touch()
    (tmp_path / "b" / "circle").symlink_to(tmp_path)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b" / "c")
    runs = event_folders.find([tmp_path, tmp_path / "b"], one_run=False)
    assert sorted(run.name for run in runs) == ["a", "a/link"]
    assert event_folders.find([tmp_path / "a"], one_run=False)[0].id == runs[0].id


@pytest.mark.parametrize(
    ("folder", "tag", "expected"),
    [
        ("", "loss", "loss"),
        ("val", "loss", "val:/loss"),
        ("m_x_a", "m/x", "m/x/:a"),
        ("m/x/a", "m/x", "m/x/::a"),
        ("1795539738.302387", "acc", "acc"),
        ("trial/1", "", "trial/1:/"),
    ],
)
def test_tags_of_one_run(folder: str, tag: str, expected: str) -> None:
    assert event_folders.tag_of(folder, tag) == expected


def test_what_is_wrong_is_said(tracelet: Tracelet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    cases = {
        ("no/folder", "-b", "mlflow"): "there is no folder no/folder",
        ("logs", "-b", "mlflow"): "no event files (*tfevents*) in logs",
        ("logs",): "--backend is needed: aim, clearml, file, mlflow, otlp, wandb",
        ("logs", "-b", "console"): "import cannot deliver to 'console', only to: ",
    }
    for arguments, said in cases.items():
        done = tracelet("import", *arguments)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert "pip install 'tracelet-otel[tensorboard]'" in tracelet("import", "logs", "-b", "file").err
