"""The tracker against the real MLflow: its own database, and its own server."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import mlflow
import pytest
from mlflow.entities import Metric, ViewType
from mlflow.tracking import MlflowClient
from PIL import Image

from tests.support.scripts import run_script
from tracelet_otel import semconv
from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series, SystemPoint
from tracelet_otel.tracker.interface import Outcome, PointAside, Tracker
from tracelet_otel_exporters.mlflow import points as mlflow_points
from tracelet_otel_exporters.mlflow import runs as mlflow_runs
from tracelet_otel_exporters.mlflow.points import MAX_BYTES, STAND_IN, Sample, batches
from tracelet_otel_exporters.mlflow.tracker import MLflowTracker

NOW = 1_700_000_000_123_456_789


class Opened:
    """An open run of a new id, and MLflow's own client to look at it."""

    def __init__(self, tracker: MLflowTracker, uri: str, run_id: str | None = None) -> None:
        self.tracker = tracker
        self.run_id = run_id or f"run-{uuid.uuid4().hex[:12]}"
        self.info = RunInfo(self.run_id, "a name", "project", self.run_id, {"team": "vision"})
        self.url = tracker.open_run(self.info)
        self.client = MlflowClient(uri)

    @property
    def run(self) -> Any:
        experiment = self.client.get_experiment_by_name(f"project/{self.run_id}")
        assert experiment is not None
        [run] = self.client.search_runs([experiment.experiment_id])
        return run

    def history(self, key: str) -> list[tuple[int, float, int]]:
        metrics = self.client.get_metric_history(self.run.info.run_id, key)
        return [(metric.step, metric.value, metric.timestamp) for metric in metrics]

    def files(self, folder: str | None = None) -> list[str]:
        found: list[str] = []
        for info in self.client.list_artifacts(self.run.info.run_id, folder):
            found += self.files(info.path) if info.is_dir else [info.path]
        return sorted(found)

    def read(self, path: str) -> bytes:
        return Path(self.client.download_artifacts(self.run.info.run_id, path)).read_bytes()

    def write(self, kind: Any, payload: bytes | None, tag: str = "tag", step: int = 3, **more: Any) -> Any:
        attributes: Mapping[str, object] = more.pop("attributes", {})
        time_ns = more.pop("time_unix_nano", NOW)
        record = Record(self.run_id, kind, tag, step, time_ns, attributes, payload=payload, **more)
        return self.tracker.write_record(record)

    def write_json(self, kind: Any, value: object, **more: Any) -> Any:
        return self.write(kind, json.dumps(value).encode(), mime_type="application/json", **more)


@pytest.fixture
def opened(tracker: MLflowTracker, uri: str) -> Opened:
    return Opened(tracker, uri)


def png(color: str = "red", size: tuple[int, int] = (40, 20), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return buffer.getvalue()


def points_aside(outcome: Outcome) -> list[PointAside]:
    return [aside for aside in outcome.aside if isinstance(aside, PointAside)]


# -- points -------------------------------------------------------------------------------------------


def test_points_keep_value_step_time_and_order(opened: Opened) -> None:
    values = [0.1, -0.0, 1e-320, 0.30000000000000004, 1e308, 7.0]
    points = [Point(step, value, NOW + step * 2_000_000) for step, value in enumerate(values)]
    outcome = opened.tracker.write_points(opened.run_id, [Series(opened.run_id, "train/loss", points)])
    assert (outcome.accepted, outcome.rejected) == (6, [])
    assert [(repr(aside.point.value), aside.reason[: len(STAND_IN)]) for aside in points_aside(outcome)] == [
        ("-0.0", STAND_IN)
    ]
    expected = [(p.step, p.value, (p.time_unix_nano + 500_000) // 1_000_000) for p in points]
    assert opened.history("train/loss") == expected


def test_nan_and_infinity(opened: Opened) -> None:
    values = [math.nan, math.inf, -math.inf]
    points = [Point(i, value, NOW + i * 1_000_000) for i, value in enumerate(values)]
    outcome = opened.tracker.write_points(opened.run_id, [Series(opened.run_id, "v", points)])
    assert outcome.accepted == 3
    assert len(outcome.lossy) == 2
    assert [aside.point for aside in points_aside(outcome)] == points[1:]
    stored = [value for _, value, _ in opened.history("v")]
    assert math.isnan(stored[0])
    assert stored[1:] == [sys.float_info.max, -sys.float_info.max]


def test_repeated_and_large_steps(opened: Opened) -> None:
    points = [
        Point(step, float(i), NOW + i * 1_000_000) for i, step in enumerate([5, 5, -1, 2**63 - 1, -(2**63)])
    ]
    outcome = opened.tracker.write_points(opened.run_id, [Series(opened.run_id, "s", points)])
    assert (outcome.accepted, outcome.lossy) == (5, [])
    assert [step for step, _, _ in opened.history("s")] == [point.step for point in points]


def test_a_bad_point_costs_only_itself(opened: Opened) -> None:
    points = [Point(1, 1.0, NOW), Point(2**63, 2.0, NOW), Point(2, 3.0, -5_000_000_000), Point(3, 4.0, NOW)]
    outcome = opened.tracker.write_points(opened.run_id, [Series(opened.run_id, "b", points)])
    assert outcome.accepted == 3
    assert [problem.name for problem in outcome.rejected] == ["b"]
    assert len(outcome.lossy) == 1
    assert [aside.point for aside in points_aside(outcome)] == [points[2]]
    assert sorted(value for _, value, _ in opened.history("b")) == [1.0, 3.0, 4.0]


def test_what_mlflow_refuses_is_found_by_halving(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    # A rule of MLflow that we do not know of: the key is made invalid after our own checks.
    from tracelet_otel_exporters.mlflow import names

    monkeypatch.setattr(names, "metric_key", lambda tag, rank=None: tag)
    series = [
        Series(opened.run_id, "good", [Point(i, float(i), NOW) for i in range(20)]),
        Series(opened.run_id, "bad@name", [Point(1, 1.0, NOW)]),
        Series(opened.run_id, "fine", [Point(i, float(i), NOW) for i in range(20)]),
    ]
    outcome = opened.tracker.write_points(opened.run_id, series)
    assert outcome.accepted == 40
    assert [problem.name for problem in outcome.rejected] == ["bad@name"]
    assert len(opened.history("good")) == len(opened.history("fine")) == 20


def test_an_exact_repeat_is_reported(opened: Opened) -> None:
    points = [Point(1, 1.0, NOW), Point(1, 1.0, NOW), Point(1, math.nan, NOW), Point(1, math.nan, NOW)]
    outcome = opened.tracker.write_points(opened.run_id, [Series(opened.run_id, "r", points)])
    assert outcome.accepted == 4
    assert len(outcome.lossy) == 2
    assert [aside.point.step for aside in points_aside(outcome)] == [1, 1]
    assert [math.isnan(aside.point.value) for aside in points_aside(outcome)] == [False, True]
    assert len(opened.history("r")) == 2


def test_an_exact_repeat_in_a_later_write_is_told_from_a_retry(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(series: Series) -> list[PointAside]:
        outcome = opened.tracker.write_points(opened.run_id, [series])
        assert outcome.accepted == len(series.points)
        return points_aside(outcome)

    first = Series(opened.run_id, "r", [Point(1, 1.0, NOW), Point(2, math.inf, NOW)], rank=2, sequence=100)
    with monkeypatch.context() as patch:
        down = Mock(side_effect=TransientError("down"))
        patch.setattr("tracelet_otel_exporters.mlflow.points._write_batch", down)
        with pytest.raises(TransientError):
            write(first)
    assert [one.point for one in write(first)] == [Point(2, math.inf, NOW)]
    assert write(first) == []  # it is aside already
    again = Series(opened.run_id, "r", [Point(1, 1.0, NOW), Point(3, 1.0, NOW)], rank=2, sequence=102)
    assert [(one.tag, one.rank, one.point) for one in write(again)] == [("r", 2, Point(1, 1.0, NOW))]
    assert write(again) == []
    later = Series(opened.run_id, "r", [Point(1, 1.0, NOW + 1_000_000)], rank=2, sequence=104)
    assert write(later) == []
    assert sorted(step for step, _, _ in opened.history("r/rank_2")) == [1, 1, 2, 3]


def test_a_scripts_own_tag_is_no_measurement_of_the_machine(opened: Opened) -> None:
    names = ["system/process_threads", "system/" + "x" * 240, "system/a/rank_1", "system", "systems/x"]
    series = [Series(opened.run_id, name, [Point(7, 7.0, NOW)]) for name in names]
    assert opened.tracker.write_points(opened.run_id, series).accepted == len(names)
    opened.tracker.write_system(opened.run_id, [SystemPoint("process.thread.count", {}, 3.0, NOW)])
    keys = opened.run.data.metrics
    assert keys["system/process_threads"] == 3.0
    assert keys["system_x002F_process_threads"] == keys["systems/x"] == 7.0
    assert len(keys) == len(names) + 1
    opened.tracker.close_run(opened.run_id, "finished")
    originals = json.loads(opened.read("tracelet/names.json"))["metrics"]
    assert set(names[:3]) <= set(originals.values())


def test_values_that_mlflow_stores_as_one_are_both_kept(opened: Opened) -> None:
    largest = sys.float_info.max
    points = [Point(1, largest, NOW), Point(1, math.inf, NOW), Point(2, 0.0, NOW), Point(2, -0.0, NOW)]
    outcome = opened.tracker.write_points(opened.run_id, [Series(opened.run_id, "m", points)])
    assert outcome.accepted == 4
    assert [repr(aside.point.value) for aside in points_aside(outcome)] == ["inf", "-0.0"]
    assert len(opened.history("m")) == 2


def test_a_repeated_call_leaves_the_same_content(opened: Opened) -> None:
    series = [
        Series(opened.run_id, f"tag{t}", [Point(i, i * 0.1, NOW + i * 1_000_000) for i in range(700)])
        for t in range(3)
    ]
    first = opened.tracker.write_points(opened.run_id, series)
    before = {f"tag{t}": opened.history(f"tag{t}") for t in range(3)}
    second = opened.tracker.write_points(opened.run_id, series)
    assert first == second
    assert {key: opened.history(key) for key in before} == before
    assert sum(map(len, before.values())) == first.accepted == 2100


def test_a_database_has_what_mlflows_client_would_have_written(opened: Opened) -> None:
    values = [1.5, math.nan, math.inf, -math.inf, 0.0, -2.0, 1e308]
    keys = ("a/loss", "b")
    points = {
        # steps go back and repeat, and times of one step differ or do not
        key: [Point(i % 40 // shift, value, NOW + i // 9 * 1_000_000) for i, value in enumerate(values * 20)]
        for shift, key in enumerate(keys, 1)
    }
    theirs = opened.client.create_run("0").info.run_id
    metrics = [
        Metric(key, value, (time_ns + 500_000) // 1_000_000, step)
        for key in keys
        for step, value, time_ns in points[key]
    ]
    opened.client.log_batch(theirs, metrics=metrics)
    for _ in range(2):  # a repeat finds everything there
        for start, end in ((0, 30), (20, 50), (50, 140)):  # a part of the second is there already
            written = [Series(opened.run_id, key, points[key][start:end]) for key in keys]
            assert opened.tracker.write_points(opened.run_id, written).rejected == []
        for key in keys:
            expected = [(m.step, m.value, m.timestamp) for m in opened.client.get_metric_history(theirs, key)]
            assert sorted(map(repr, opened.history(key))) == sorted(map(repr, expected))
        # The newest of each key, which MLflow keeps apart.
        assert opened.run.data.metrics == opened.client.get_run(theirs).data.metrics


def test_ranks_and_changed_names(opened: Opened) -> None:
    tags = [("loss", 0), ("loss", 1), ("loss/rank_1", None), ("acc@5", None), ("x" * 300, None), ("", None)]
    series = [
        Series(opened.run_id, tag, [Point(0, float(i), NOW)], rank) for i, (tag, rank) in enumerate(tags)
    ]
    opened.tracker.write_points(opened.run_id, series)
    keys = {value: key for key, value in opened.run.data.metrics.items()}
    assert [keys[float(i)] for i in range(4)] == ["loss", "loss/rank_1", "loss/rank_x005F_1", "acc_x0040_5"]
    opened.tracker.close_run(opened.run_id, "finished")
    changed = json.loads(opened.read("tracelet/names.json"))["metrics"]
    assert changed == {keys[2.0]: "loss/rank_1", keys[3.0]: "acc@5", keys[4.0]: "x" * 300, "_x_": ""}


def test_a_cut_name_is_kept_at_once_and_by_a_later_process(
    opened: Opened, uri: str, new_tracker: Callable[[str], MLflowTracker]
) -> None:
    opened.tracker.write_points(opened.run_id, [Series(opened.run_id, "a" * 300, [Point(0, 1.0, NOW)])])
    assert "a" * 300 in json.loads(opened.read("tracelet/names.json"))["metrics"].values()
    later = new_tracker(uri)
    later.open_run(opened.info)
    later.write_points(opened.run_id, [Series(opened.run_id, "b@", [Point(0, 1.0, NOW)])])
    later.close_run(opened.run_id, "finished")
    assert sorted(json.loads(opened.read("tracelet/names.json"))["metrics"].values()) == ["a" * 300, "b@"]


def test_requests_stay_below_both_limits() -> None:
    samples = [Sample("漢" * 250, 1.0, NOW // 1_000_000, i, "t") for i in range(1500)]
    cut = list(batches(iter(samples)))
    assert [sample for batch in cut for sample in batch] == samples
    assert all(len(json.dumps([s[:4] for s in batch])) < MAX_BYTES for batch in cut)
    assert [len(batch) for batch in batches(s._replace(key="k") for s in samples)] == [1000, 500]


# -- the machine ----------------------------------------------------------------------------------------


def machine_points(time_unix_nano: int, received: float) -> list[SystemPoint]:
    def point(name: str, value: float, **attributes: Any) -> SystemPoint:
        named = {key.replace("_", "."): item for key, item in attributes.items()}
        return SystemPoint(name, named, value, time_unix_nano)

    return [
        *(point("system.cpu.utilization", 0.75, cpu=cpu, state="idle") for cpu in (1, 2)),
        point("system.memory.usage", 8e9, state="used"),
        point("system.memory.utilization", 0.5, state="used"),
        point("system.filesystem.utilization", 0.25),
        point("system.network.io", received, device="eth0", direction="receive"),
        point("hw.gpu.utilization", 0.9, hw_id="0", hw_gpu_task="general"),
        point("hw.gpu.memory.usage", 2e9, hw_id="0"),
        point("hw.power", 120.0, hw_id="0", hw_type="gpu"),
        point("hw.gpu.power.limit", 240.0, hw_id="0", hw_type="gpu"),
        point("system.swap.usage", 7.0, state="used"),
    ]


def test_the_machine_is_shown_as_mlflows_own_monitor_does(
    opened: Opened, new_tracker: Callable[[str], MLflowTracker], uri: str
) -> None:
    start = opened.run.info.start_time
    now = (start + 65_000) * 1_000_000
    outcome = opened.tracker.write_system(opened.run_id, machine_points(now, 5e6))
    assert (outcome.rejected, outcome.lossy) == ([], [])
    later = machine_points(now + 10_000_000_000, 7.5e6)
    for _ in range(2):  # a retry changes nothing
        opened.tracker.write_system(opened.run_id, later)
    resumed = new_tracker(uri)
    resumed.open_run(opened.info)
    resumed.write_system(opened.run_id, machine_points(now + 20_000_000_000, 9e6))
    assert [value for _, value, _ in opened.history("system/network_receive_megabytes")] == [0.0, 2.5, 0.0]
    assert [step for step, _, _ in opened.history("system/cpu_utilization_percentage")] == [65, 75, 85]
    latest = {key: value for key, value in opened.run.data.metrics.items() if key.startswith("system/")}
    assert latest == {
        "system/cpu_utilization_percentage": 25.0,
        "system/cpu_0_utilization_percentage": 25.0,
        "system/cpu_1_utilization_percentage": 25.0,
        "system/system_memory_usage_megabytes": 8000.0,
        "system/system_memory_usage_percentage": 50.0,
        "system/disk_usage_percentage": 25.0,
        "system/network_receive_megabytes": 0.0,
        "system/gpu_0_utilization_percentage": 90.0,
        "system/gpu_0_memory_usage_megabytes": 2000.0,
        "system/gpu_0_power_usage_watts": 120.0,
        "system/gpu_0_power_usage_percentage": 50.0,
        "system/gpu_0_power_limit_watts": 240.0,
        "system/system.swap.usage/state:used": 7.0,
    }


def test_names_of_the_machine_are_mlflows(sqlite_uri: str, new_tracker: Any) -> None:
    # What MLflow's own monitor measures on this machine, we write under the very same names.
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    theirs: set[str] = set()
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs |= monitor.metrics.keys()
    assert theirs <= {name for name, _ in mlflow_points._SYSTEM_NAMES.values()}


def test_a_node_has_names_of_its_own(sqlite_uri: str, new_tracker: Callable[[str], MLflowTracker]) -> None:
    opened = Opened(new_tracker(sqlite_uri), sqlite_uri)
    points = [
        SystemPoint("process.thread.count", {"host.name": node}, value, NOW)
        for node, value in {"a": 1.0, "b": 2.0}.items()
    ]
    opened.tracker.write_system(opened.run_id, points)
    assert opened.run.data.metrics == {"system/a/process_threads": 1.0, "system/b/process_threads": 2.0}


ENVIRONMENT = {
    "git": {"commit": "a" * 40, "branch": "main", "repository": "https://host/r.git", "dirty": False},
    "python": {"version": "3.11.9", "executable": "/usr/bin/python"},
    "packages": {"torch": "2.9.0", "numpy": "2.3.0"},
    "entry_point": "train.py",
    "host": {"name": "node", "user": "ada"},
}


def test_environment(opened: Opened) -> None:
    assert opened.write_json("environment", ENVIRONMENT, tag="").accepted == 1
    tags = {key: value for key, value in opened.run.data.tags.items() if key.startswith("mlflow.")}
    assert tags["mlflow.source.name"] == "train.py"
    assert tags["mlflow.source.type"] == "LOCAL"
    assert tags["mlflow.source.git.commit"] == "a" * 40
    assert tags["mlflow.source.git.branch"] == "main"
    assert tags["mlflow.source.git.repoURL"] == "https://host/r.git"
    assert tags["mlflow.source.git.dirty"] == "false"
    assert tags["mlflow.user"] == "ada"
    assert opened.read("tracelet/requirements.txt") == b"numpy==2.3.0\ntorch==2.9.0\n"
    assert json.loads(opened.read("tracelet/environment.json")) == ENVIRONMENT


def test_environments_of_ranks_and_attempts_are_all_kept(
    opened: Opened, new_tracker: Callable[[str], MLflowTracker], uri: str, capfd: pytest.CaptureFixture[str]
) -> None:
    opened.write_json("environment", ENVIRONMENT, tag="")
    opened.write_json("environment", {"host": {"name": "b"}}, tag="", attributes={semconv.RANK: 3})
    resumed = Opened(new_tracker(uri), uri, opened.run_id)
    for _ in range(2):
        resumed.write_json("environment", {**ENVIRONMENT, "git": {"commit": "b" * 40}}, tag="")
    assert capfd.readouterr() == ("", "")  # MLflow draws a progress bar for what it downloads
    files = [name for name in opened.files("tracelet") if "environment" in name]
    assert len(files) == 3
    commits = {json.loads(opened.read(name)).get("git", {}).get("commit", "")[:1] for name in files}
    assert commits == {"a", "b", ""}
    assert opened.run.data.tags["mlflow.source.git.commit"] == "b" * 40
    assert json.loads(opened.read("tracelet/environment.json"))["git"] == {"commit": "b" * 40}


def test_a_file_is_stored_and_replaced(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "other name.jsonl"
    for content in (b"first", b"second\0"):
        path.write_bytes(content)
        opened.tracker.write_file(opened.run_id, "tracelet/companion-1.jsonl", path)
        assert opened.read("tracelet/companion-1.jsonl") == content
    assert [name for name in opened.files() if "companion" in name] == ["tracelet/companion-1.jsonl"]


def test_closing_the_client_leaves_the_run_open_and_the_users_mlflow_working(
    opened: Opened, new_tracker: Callable[[str], MLflowTracker], uri: str
) -> None:
    tracker: Tracker = opened.tracker
    tracker.close()
    tracker.close()
    with pytest.raises(PermanentError):
        tracker.write_points(opened.run_id, [])
    assert opened.run.info.status == "RUNNING"
    tracker.connect()
    tracker.open_run(opened.info)
    series = [Series(opened.run_id, "m", [Point(0, 1.0, NOW)])]
    assert tracker.write_points(opened.run_id, series).accepted == 1


# -- runs ---------------------------------------------------------------------------------------------


def test_a_new_run(opened: Opened, uri: str) -> None:
    run = opened.run
    assert run.info.run_name == "a name"
    assert run.info.status == "RUNNING"
    assert run.data.tags["tracelet.run.id"] == opened.run_id
    assert run.data.tags["team"] == "vision"
    assert run.data.tags["mlflow.source.name"] == sys.argv[0]
    assert run.data.tags["mlflow.source.type"] == "LOCAL"
    assert run.data.tags["mlflow.user"]
    assert run.info.run_id in opened.url
    if uri.startswith("http"):
        assert opened.url == f"{uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def test_description_changes(opened: Opened) -> None:
    changed = RunInfo(
        opened.run_id, "other", "project", opened.run_id, {"team": "audio", "vcs.ref.head.name": "b"}
    )
    assert opened.tracker.open_run(changed) == opened.url
    assert opened.run.info.run_name == "other"
    assert opened.run.data.tags["team"] == "audio"
    assert opened.run.data.tags["mlflow.source.git.branch"] == "b"


@pytest.mark.parametrize(
    ("status", "theirs"), [("finished", "FINISHED"), ("failed", "FAILED"), ("killed", "KILLED")]
)
def test_status_and_resume(
    opened: Opened, status: Any, theirs: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = time.time() * 1000 - 1
    opened.tracker.close_run(opened.run_id, status)
    run = opened.run
    assert run.info.status == theirs
    assert before <= run.info.end_time <= time.time() * 1000
    with pytest.raises(PermanentError, match="not open"):
        opened.tracker.write_points(opened.run_id, [])
    assert opened.tracker.open_run(opened.info) == opened.url
    assert opened.run.info.status == "RUNNING"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("run_id", ["it's", 'a "b"', "100% `x`; --", "a\\b", "漢 字"])
def test_any_run_id_is_found_again(tracker: MLflowTracker, uri: str, run_id: str) -> None:
    info = RunInfo(run_id, project="ids")
    url = tracker.open_run(info)
    tracker.close_run(run_id, "finished")
    assert tracker.open_run(info) == url


def test_a_run_is_found_by_mlflows_own_id(tracker: MLflowTracker, uri: str) -> None:
    client = MlflowClient(uri)
    experiment_id = client.create_experiment(f"elsewhere-{uuid.uuid4().hex}")
    run = client.create_run(experiment_id, run_name="mine")
    assert run.info.run_id in tracker.open_run(RunInfo(run.info.run_id, project="not-there"))
    tracker.write_points(run.info.run_id, [Series(run.info.run_id, "m", [Point(0, 1.0, NOW)])])
    assert client.get_run(run.info.run_id).data.metrics == {"m": 1.0}
    tracker.close_run(run.info.run_id, "finished")
    client.delete_run(run.info.run_id)
    with pytest.raises(PermanentError, match="restore"):
        tracker.open_run(RunInfo(run.info.run_id, project="not-there"))


def test_experiments(tracker: MLflowTracker, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(uri)

    def experiment_of(project: str = "", experiment: str = "") -> str:
        run_id = f"r{uuid.uuid4().hex[:8]}"
        tracker.open_run(RunInfo(run_id, project=project, experiment=experiment))
        found = client.search_runs(
            [e.experiment_id for e in client.search_experiments()], f"tags.`tracelet.run.id` = '{run_id}'"
        )
        return client.get_experiment(found[0].info.experiment_id).name

    assert experiment_of() == "Default"
    assert experiment_of(project="p") == "p"
    assert experiment_of(experiment="e") == "e"
    assert experiment_of(project="p", experiment="e") == "p/e"
    assert len(experiment_of(project="long" * 200)) <= 500
    by_id = client.create_experiment(f"by-id-{uuid.uuid4().hex}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", by_id)
    assert experiment_of().startswith("by-id-")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by-name")
    assert experiment_of() == "by-name"


def test_deleted_experiment_and_run(opened: Opened, new_tracker: Callable[[str], MLflowTracker]) -> None:
    client, run = opened.client, opened.run
    client.delete_run(run.info.run_id)
    points = [Series(opened.run_id, "m", [Point(i, 1.0, NOW) for i in range(10)])]
    with pytest.raises(PermanentError, match="deleted in MLflow"):
        opened.tracker.write_points(opened.run_id, points)
    with pytest.raises(PermanentError, match="deleted in MLflow"):
        opened.tracker.close_run(opened.run_id, "finished")
    again = new_tracker(opened.tracker._connected().uri)
    assert again.open_run(opened.info) != opened.url  # a deleted run stays deleted
    client.delete_experiment(run.info.experiment_id)
    with pytest.raises(PermanentError, match="mlflow experiments restore"):
        again.open_run(RunInfo("another", project="project", experiment=opened.run_id))


def test_processes_that_open_one_run_at_once_share_it(
    uri: str, new_tracker: Callable[[str], MLflowTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_runs, "SETTLE_SECONDS", 0.5)
    trackers = [new_tracker(uri) for _ in range(4)]
    name = f"race-{uuid.uuid4().hex}"
    urls: list[str] = []
    start = threading.Barrier(len(trackers))

    def open_one(tracker: MLflowTracker) -> None:
        start.wait()
        urls.append(tracker.open_run(RunInfo("one", project=name)))

    threads = [threading.Thread(target=open_one, args=(tracker,)) for tracker in trackers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(urls) == len(trackers)
    assert len(set(urls)) == 1
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id], run_view_type=ViewType.ACTIVE_ONLY)) == 1


# -- parameters and tags ------------------------------------------------------------------------------


def test_params(opened: Opened) -> None:
    params = {
        "lr": 0.1,
        "opt": {"name": "adam", "betas": [0.9, 0.999], "extra": {}},
        "none": None,
        "on": True,
    }
    params |= {f"p{i}": i for i in range(230)} | {"empty": "", "bad@name": 1}
    outcome = opened.write_json("params", params)
    assert (outcome.accepted, outcome.lossy, outcome.rejected) == (1, [], [])
    stored = opened.run.data.params
    assert stored["opt/name"] == "adam"
    assert stored["opt/betas"] == "[0.9, 0.999]"
    assert (stored["lr"], stored["none"], stored["on"], stored["opt/extra"]) == ("0.1", "None", "True", "{}")
    assert stored["p229"] == "229"
    assert stored["bad_x0040_name"] == "1"
    assert stored.get("empty", "") == ""
    assert len(stored) in (len(params) + 2, len(params) + 1)


def test_a_changed_param_keeps_both_values(opened: Opened) -> None:
    opened.write_json("params", {"lr": 0.1, "a": 1})
    assert opened.write_json("params", {"lr": 0.1, "b": 2}).lossy == []
    for _ in range(2):  # a retry
        outcome = opened.write_json("params", {"lr": 0.2, "c": 3})
        assert outcome.accepted == 1
        assert [problem.name for problem in outcome.lossy] == ["lr"]
    assert opened.run.data.params == {"lr": "0.1", "a": "1", "b": "2", "c": "3"}
    assert json.loads(opened.read("tracelet/params.json")) == {"lr": [0.2]}


def test_params_of_several_processes(
    opened: Opened, uri: str, new_tracker: Callable[[str], MLflowTracker]
) -> None:
    other = new_tracker(uri)
    other.open_run(opened.info)
    opened.write_json("params", {"lr": 0.1})
    record = Record(opened.run_id, "params", "", 0, NOW, {}, payload=b'{"lr": 0.3, "seed": 1}')
    assert [problem.name for problem in other.write_record(record).lossy] == ["lr"]
    assert opened.write_json("params", {"seed": 2}).lossy != []
    assert opened.run.data.params == {"lr": "0.1", "seed": "1"}


def test_long_values(opened: Opened) -> None:
    outcome = opened.write_json("params", {"long": "v" * 7000, "nested": {"list": list(range(3000))}})
    assert [problem.name for problem in outcome.lossy] == ["long", "nested/list"]
    assert opened.run.data.params["long"] == "v" * 6000
    full = json.loads(opened.read("tracelet/params.json"))
    assert full == {"long": ["v" * 7000], "nested/list": [list(range(3000))]}
    outcome = opened.write_json("tags", {"note": "t" * 9000, "n": 1, "a#b": "c"})
    assert [problem.name for problem in outcome.lossy] == ["note"]
    assert opened.run.data.tags["note"] == "t" * 8000
    assert (opened.run.data.tags["n"], opened.run.data.tags["a_x0023_b"]) == ("1", "c")
    assert json.loads(opened.read("tracelet/tags.json")) == {"note": "t" * 9000}


# -- other records ------------------------------------------------------------------------------------

HISTOGRAM = {
    "min": -1.0,
    "max": 2.0,
    "num": 5.0,
    "sum": 1.0,
    "sum_squares": 4.0,
    "bucket_limits": [-0.5, 0.0, 1.0, 1.7976931348623157e308],
    "bucket_counts": [1.0, 0.0, 3.0, 1.0],
}
PR_CURVE = {
    "true_positives": [3.0, 2.0, 0.0],
    "false_positives": [2.0, 1.0, 0.0],
    "true_negatives": [0.0, 1.0, 2.0],
    "false_negatives": [0.0, 1.0, 3.0],
    "precision": [0.6, 0.66, 1.0],
    "recall": [1.0, 0.66, 0.0],
    "thresholds": [0.0, 0.5, 1.0],
}


@pytest.mark.parametrize(
    ("kind", "mime_type", "attributes", "path"),
    [
        ("text", "text/plain", {}, "text/a/b_x0023_c/3.txt"),
        ("text", "text/markdown", {}, "text/a/b_x0023_c/3.md"),
        ("audio", "audio/wav", {}, "audio/a/b_x0023_c/3.wav"),
        ("audio", "audio/wav", {semconv.INDEX: 2}, "audio/a/b_x0023_c/3_2.wav"),
        ("audio", "audio/wav", {semconv.RANK: 4}, "audio/a/b_x0023_c/rank_4/3.wav"),
        ("video", "image/gif", {}, "video/a/b_x0023_c/3.gif"),
        ("video", "video/mp4", {}, "video/a/b_x0023_c/3.mp4"),
        ("mesh", "application/x-npz", {}, "mesh/a/b_x0023_c/3.npz"),
        ("image", "image/png", {}, "image/a/b_x0023_c/3.png"),  # the bytes are no picture
        ("embedding", "", {semconv.FILE_NAME: "a/metadata.tsv"}, "embedding/a/b_x0023_c/3/a/metadata.tsv"),
        ("artifact", "", {semconv.FILE_NAME: "models/über ünit.bin"}, "models/über ünit.bin"),
        ("artifact", "", {semconv.FILE_NAME: "../../etc/x"}, "_x002E_./_x002E_./etc/x"),
        ("artifact", "", {semconv.FILE_NAME: "/abs/100%?x=1:2"}, "_x_/abs/100_x0025__x003F_x=1_x003A_2"),
        ("layout", "application/json", {}, "tensorboard/custom_scalars.json"),
        ("graph", "", {semconv.GRAPH_PART: "graph_def"}, "tensorboard/graph.pb"),
        ("graph", "", {semconv.GRAPH_PART: "run_metadata"}, "tensorboard/run_metadata/a/b_x0023_c.pb"),
    ],
)
def test_files_keep_their_bytes(
    opened: Opened, kind: Any, mime_type: str, attributes: dict[str, object], path: str
) -> None:
    content = bytes(range(256)) * 3
    for _ in range(2):  # a retry
        outcome = opened.write(kind, content, "a/b#c", mime_type=mime_type, attributes=attributes)
        assert (outcome.accepted, outcome.rejected) == (1, [])
    assert opened.files() == [path]
    assert opened.read(path) == content


def test_two_records_of_one_step_are_both_kept(
    opened: Opened, uri: str, new_tracker: Callable[[str], MLflowTracker]
) -> None:
    opened.write("text", b"one", step=0, mime_type="text/plain")
    opened.write("text", b"two", step=0, mime_type="text/plain", time_unix_nano=NOW + 1)
    opened.write("text", b"one", step=0, mime_type="text/plain")
    later = new_tracker(uri)
    later.open_run(opened.info)
    for content in (b"one", b"three"):  # a replay, and something new
        record = Record(opened.run_id, "text", "tag", 0, NOW, {}, "text/plain", content)
        later.write_record(record)
    assert sorted(opened.read(path) for path in opened.files()) == [b"one", b"three", b"two"]
    assert opened.read("text/tag/0.txt") == b"one"


def test_an_image_shows_in_mlflows_charts_with_its_exact_bytes(opened: Opened) -> None:
    content = png()
    for _ in range(2):  # a retry
        opened.write("image", content, "val/images:0", attributes={semconv.INDEX: 1}, mime_type="image/png")
    small, full = opened.files()
    assert full.removesuffix(".png") == small.removesuffix("+compressed.webp")
    key, step, number, timestamp, time_ms, unique = Path(full).stem.split("+")
    assert (key, step, number) == ("val~images_x003A_0~1", "step", "3")
    assert (timestamp, int(time_ms)) == ("timestamp", NOW // 1_000_000)
    assert str(uuid.UUID(unique)) == unique
    assert opened.read(full) == content
    with Image.open(io.BytesIO(opened.read(small))) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (256, 128))
    assert opened.run.data.tags["mlflow.loggedImages"] == "True"


def test_a_jpeg_keeps_its_bytes_next_to_the_chart(opened: Opened) -> None:
    content = png(kind="JPEG")
    opened.write("figure", content, mime_type="image/jpeg")
    assert [Path(path).suffix for path in opened.files()] == [".jpg", ".webp", ".png"]
    assert opened.read("figure/tag/3.jpg") == content


def test_a_huge_picture_is_not_decoded(opened: Opened) -> None:
    content = png(size=(50_000, 1_000))
    opened.write("image", content, mime_type="image/png")
    assert opened.files() == ["image/tag/3.png"]


def test_charts_of_histograms_and_pr_curves(opened: Opened) -> None:
    opened.write_json("histogram", HISTOGRAM)
    opened.write_json("pr_curve", PR_CURVE)
    assert json.loads(opened.read("histogram/tag/3.json")) == HISTOGRAM
    assert json.loads(opened.read("pr_curve/tag/3.json")) == PR_CURVE
    drawn = [path for path in opened.files("images") if path.endswith(".png")]
    assert [path.partition("+")[0] for path in drawn] == ["images/histogram~tag", "images/pr_curve~tag"]
    for path in drawn:
        with Image.open(io.BytesIO(opened.read(path))) as picture:
            colors = picture.getcolors()
            assert colors is not None
            assert any(color == (31, 119, 180) for _, color in colors)


def test_a_histogram_that_cannot_be_drawn_is_still_kept(opened: Opened) -> None:
    empty = {**HISTOGRAM, "bucket_limits": [], "bucket_counts": [], "num": 0.0}
    assert opened.write_json("histogram", empty).accepted == 1
    assert opened.files() == ["histogram/tag/3.json"]


def test_mesh_config(opened: Opened) -> None:
    opened.write("mesh", b"npz", mime_type="application/x-npz", attributes={semconv.MESH_CONFIG: '{"a": 1}'})
    assert opened.read("mesh/tag/3.json") == b'{"a": 1}'


def test_checkpoints(opened: Opened) -> None:
    attributes = {
        semconv.CHECKPOINT_PATH: "/runs/1/epoch=3.ckpt",
        semconv.CHECKPOINT_SIZE: 12,
        semconv.CHECKPOINT_SCORE: 0.5,
    }
    assert opened.write("artifact", None, attributes=attributes).accepted == 1
    assert opened.files() == ["checkpoints/epoch=3.ckpt.json"]
    about = json.loads(opened.read("checkpoints/epoch=3.ckpt.json"))
    assert about == {
        "step": 3,
        "time_unix_nano": NOW,
        "path": "/runs/1/epoch=3.ckpt",
        "size": 12,
        "score": 0.5,
    }
    opened.write("artifact", b"weights", attributes={**attributes, semconv.FILE_NAME: "checkpoints/e.ckpt"})
    assert opened.read("checkpoints/e.ckpt") == b"weights"
    assert "checkpoints/e.ckpt.json" in opened.files()


def test_media_files(opened: Opened, tmp_path: Path) -> None:
    import hashlib

    content = os.urandom(1 << 20) * 9
    source = tmp_path / "some media"
    source.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    attributes = {semconv.FILE_NAME: "big/model.bin"}
    for uri in (source.as_uri(), str(source)):
        opened.write("artifact", None, uri=uri, sha256=digest, attributes=attributes)
        assert opened.read("big/model.bin") == content
    for uri, sha256 in ((source.as_uri(), "0" * 64), ((tmp_path / "gone").as_uri(), digest)):
        outcome = opened.write("artifact", None, uri=uri, sha256=sha256, attributes=attributes)
        assert (outcome.accepted, len(outcome.rejected)) == (0, 1)


def test_broken_and_unknown_records_are_rejected(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    assert opened.write("params", b"{").rejected
    assert opened.write("tags", b"[1]").rejected
    with caplog.at_level(logging.WARNING):
        outcome = opened.write("hologram", b"x")
    assert [problem.name for problem in outcome.rejected] == ["tag"]
    assert "hologram" in caplog.text


# -- the user's own process ---------------------------------------------------------------------------


def test_the_users_own_mlflow_is_left_alone(
    uri: str, sqlite_uri: str, new_tracker: Callable[[str], MLflowTracker]
) -> None:
    environment = dict(os.environ)
    mlflow.set_tracking_uri(sqlite_uri)
    try:
        mlflow.set_experiment("mine")
        with mlflow.start_run() as active:
            mlflow.set_active_model(name="their model")
            other = Opened(new_tracker(uri), uri)
            other.tracker.write_points(other.run_id, [Series(other.run_id, "ours", [Point(0, 1.0, NOW)])])
            other.write_json("params", {"ours": 1})
            other.tracker.close_run(other.run_id, "finished")
            assert mlflow.get_tracking_uri() == sqlite_uri
            assert mlflow.active_run() is active
            mlflow.log_metric("theirs", 2.0)
        run = MlflowClient(sqlite_uri).get_run(active.info.run_id)
        assert run.data.metrics == {"theirs": 2.0}
        assert run.data.params == {}
        assert other.run.data.metrics == {"ours": 1.0}
        assert other.client.get_metric_history(other.run.info.run_id, "ours")[0].model_id is None
    finally:
        mlflow.clear_active_model()
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
        os.environ.clear()
        os.environ.update(environment)


def test_our_settings_hold_for_our_calls_only(
    tracker: MLflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import environment_variables as variables

    connection = tracker._connected()
    assert variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 7
    with connection.calls():
        assert variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 0
        assert variables.MLFLOW_DISABLE_TELEMETRY.get() is True
        elsewhere: list[object] = []
        thread = threading.Thread(
            target=lambda: elsewhere.append(variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())
        )
        thread.start()
        thread.join()
        assert elsewhere == [7]
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        assert variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 2


def test_no_server_is_a_transient_error_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(TransientError, match="refused"):
        MLflowTracker("http://127.0.0.1:9").connect()
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failing_server_is_a_transient_error_at_once(
    proxy: Any, status: int, new_tracker: Callable[[str], MLflowTracker]
) -> None:
    tracker = new_tracker(proxy.uri)
    opened = Opened(tracker, proxy.uri)
    proxy.status = status
    started = time.monotonic()
    series = [Series(opened.run_id, "m", [Point(0, 1.0, NOW)])]
    with pytest.raises(TransientError) as failure:
        tracker.write_points(opened.run_id, series)
    assert failure.value.retry_after == 7.0
    for attempt in (
        lambda: opened.write("text", b"x"),
        lambda: opened.write_json("params", {"a": 1}),
        lambda: tracker.close_run(opened.run_id, "finished"),
        tracker.connect,
    ):
        with pytest.raises(TransientError):
            attempt()
    assert len(proxy.refused) == 5
    assert time.monotonic() - started < 3
    proxy.status = 0
    assert tracker.write_points(opened.run_id, series).accepted == 1
    tracker.close_run(opened.run_id, "finished")
    assert opened.history("m") == [(0, 1.0, NOW // 1_000_000)]


def test_a_refusing_server_is_a_permanent_error(proxy: Any) -> None:
    tracker = MLflowTracker(proxy.uri)
    proxy.status = 403
    with pytest.raises(PermanentError, match="403"):
        tracker.connect()


def test_a_locked_database_is_a_transient_error(
    sqlite_uri: str, tmp_path: Path, new_tracker: Callable[[str], MLflowTracker]
) -> None:
    import sqlite3

    tracker = new_tracker(sqlite_uri)
    tracker.open_run(RunInfo("locked"))
    engine: Any = tracker._connected().store.engine
    from sqlalchemy import event

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def _hurry(_c: Any, _cur: Any, statement: str, parameters: Any, _ctx: Any, _many: Any) -> Any:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 50"), parameters

    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(TransientError, match="locked"):
            tracker.write_points("locked", [Series("locked", "m", [Point(0, 1.0, NOW)])])
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    assert tracker.write_points("locked", [Series("locked", "m", [Point(0, 1.0, NOW)])]).accepted == 1


def test_nothing_is_imported_or_raised_before_connect(sqlite_uri: str) -> None:
    code = (
        "import sys\n"
        "from tracelet_otel_exporters.mlflow.tracker import MLflowTracker\n"
        "MLflowTracker('nonsense://x'); assert 'mlflow' not in sys.modules\n"
        "sys.modules['mlflow'] = None\n"
        "try: MLflowTracker().connect()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == 'PermanentError MLflow is not installed: pip install "tracelet-otel[mlflow]"\n'


def test_the_import_leaves_the_environment_as_it_is() -> None:
    code = (
        "import os\n"
        "os.environ['_MLFLOW_TELEMETRY_SESSION_ID'] = 'a parent process'\n"
        "before = dict(os.environ)\n"
        "from tracelet_otel_exporters.mlflow.tracker import MLflowTracker\n"
        "MLflowTracker('http://127.0.0.1:9').load()\n"
        "import mlflow\n"
        "assert dict(os.environ) == before\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)


SCRIPT = """
import atexit, json, logging, os, sys, threading
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series
from tracelet_otel_exporters.mlflow.tracker import MLflowTracker

tracker = MLflowTracker(os.environ.get("URI"))
os.chdir("/")

def write():
    tracker.connect()
    tracker.open_run(RunInfo("exit", project="exit"))
    tracker.write_points("exit", [Series("exit", "m", [Point(i, float(i), i) for i in range(1500)])])
    tracker.write_record(Record("exit", "text", "t", 0, 0, {}, "text/plain", b"hello"))
    tracker.write_record(Record("exit", "params", "", 0, 0, {}, payload=b'{"long": "' + b"v" * 7000 + b'"}'))
    tracker.close_run("exit", "finished")
    done.append(True)

done = []
def at_exit():
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join()
    from mlflow.telemetry import get_telemetry_client
    assert get_telemetry_client() is None
    assert "MLFLOW_DISABLE_TELEMETRY" not in os.environ
    assert logging.getLogger("sqlalchemy.engine").handlers == []
    assert threading.active_count() == 1, threading.enumerate()
    print("done", done)

EARLY
atexit.register(at_exit)
"""


@pytest.mark.parametrize("early", ["", "import concurrent.futures.thread"])
def test_writing_at_the_interpreters_exit(
    uri: str, tmp_path: Path, early: str, request: pytest.FixtureRequest
) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "MLFLOW_DISABLE_TELEMETRY")}
    environment.pop("PYTEST_CURRENT_TEST", None)
    environment["HOME"] = str(tmp_path)
    if uri.startswith("http"):
        environment["URI"] = uri
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("EARLY", early)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done [True]\n", "")
    assert not (tmp_path / ".config" / "mlflow").exists()  # where telemetry keeps its id
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("exit")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id])[0]
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"m": 1499.0}
    assert Path(client.download_artifacts(run.info.run_id, "text/t/0.txt")).read_bytes() == b"hello"
    if not uri.startswith("http"):
        assert (tmp_path / "mlruns").is_dir()  # not in the folder that the script went to


@pytest.mark.slow
def test_processes_that_create_one_database_at_once(tmp_path: Path) -> None:
    code = SCRIPT.replace("EARLY", "")
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_DISABLE_TELEMETRY"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment,
        )
        for _ in range(2)
    ]
    for process in running:
        assert process.communicate() == (b"done [True]\n", b"")
    assert (tmp_path / "mlflow.db").is_file()


@pytest.mark.parametrize("is_ours", [False, True])
def test_a_process_of_ours_imports_no_pandas(tmp_path: Path, database: Path, is_ours: bool) -> None:
    """It takes a third of the memory. A process of the user has MLflow as it is."""
    code = f"""
    import sys
    from pathlib import Path
    from tracelet_otel.foundation.importing import say_own_process
    from tracelet_otel_exporters.mlflow.connection import MLflowConnection
    if {is_ours}:
        say_own_process()
    MLflowConnection("sqlite:///{database}", Path())
    assert ("pandas" in sys.modules) is not {is_ours}
    import mlflow.data, pandas
    assert hasattr(mlflow.data, "from_pandas") is not {is_ours}
    """
    done = run_script(tmp_path, code, zero_code=False)
    assert done.returncode == 0, done.stderr
