"""One script, four trackers at once: every point and record in each, also after an outage and a replay."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import event_files
from tests.support.contract_data import LoggedPoint, blobs, check_points
from tests.support.scripts import check_failures, clean_environment, write_script
from tests.support.subject import Subject
from tests.support.trackers import TRACKERS, backends, subjects_in
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.otlp.decoding import decode_records, parse_logs
from tracelet_otel.otlp.records import Record
from tracelet_otel.recording.reservoir import shortest_float32

POINTS = 20_000 + 3
SCRIPT = """
import json, math, sys, time
from pathlib import Path
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import tracelet_otel
from tensorboardX import SummaryWriter

tracelet_otel.configure(backends=json.loads(sys.argv[1]), run_id="all-four", run_name="name")
rng = np.random.default_rng(0)
with SummaryWriter("logs") as writer:
    for step in range(2_000):
        for tag in range(10):
            writer.add_scalar(f"group/tag{tag}", math.sin(step * (tag + 1)) * 10.0 ** (tag - 5), step)
        if step == 1_000:
            tracelet_otel.flush()
            Path("half").touch()
            while not Path("go").exists():
                time.sleep(0.01)
    writer.add_text("text", "some *text*", 1)
    writer.add_image("image", rng.random((3, 8, 8)), 2)
    writer.add_audio("audio", rng.random(800) * 2 - 1, 3, sample_rate=8000)
    writer.add_histogram("histogram", rng.normal(size=1000), 4)
    writer.add_pr_curve("curve", rng.integers(0, 2, 100), rng.random(100), 5)
    writer.add_mesh("mesh", rng.random((1, 10, 3)), global_step=6)
    writer.add_video("video", rng.random((1, 4, 3, 8, 8)), 7)
    figure = plt.figure()
    figure.gca().plot([1, 2, 3])
    writer.add_figure("figure", figure, 8)
    writer.add_embedding(np.eye(3), metadata=["a", "b", "c"], tag="space", global_step=9)
    for step, value in enumerate((math.nan, math.inf, -math.inf)):
        writer.add_scalar("edge", value, step)
    writer.add_custom_scalars({"group": {"all": ["Multiline", ["group/.*"]]}})
    writer.add_hparams({"lr": 0.1, "layers": 3}, {})
Path("notes.txt").write_text("an artifact")
tracelet_otel.log_artifact("notes.txt")
Path("logged").touch()
"""
KINDS = {
    *("text", "image", "audio", "histogram", "pr_curve", "mesh", "video", "embedding"),
    *("layout", "artifact"),
}


@pytest.fixture
def subjects(tmp_path: Path, database: Path) -> Iterator[dict[str, Subject]]:
    with subjects_in(tmp_path, database) as made:
        yield made


def logged(tmp_path: Path) -> list[LoggedPoint]:
    """Every point of the event files."""
    return [
        LoggedPoint(tag, None, point.step, shortened(point.value), round(point.wall_time * 1e9))
        for tag, points in event_files.points(tmp_path / "logs").items()
        for point in points
    ]


def shortened(value: float) -> float:
    return shortest_float32(value) if math.isfinite(value) else value


def records(tmp_path: Path) -> list[Record]:
    """Every record with a content, as backend ``file`` has it."""
    requests = [batch.logs for batch in read(tmp_path / "kept") if isinstance(batch.logs, bytes)]
    return [one for data in requests for one in decode_records(parse_logs(data)) if one.kind in KINDS]


def check(name: str, subject: Subject, points: list[LoggedPoint], contents: list[Record]) -> None:
    """The tracker has everything, once."""
    resolution = subject.make().capabilities.time_resolution_ns
    besides = {tag for tag in subject.points("all-four") if tag.startswith("system/")}
    check_points(subject, "all-four", points, resolution, besides)
    assert subject.status("all-four") == "finished"
    assert subject.params("all-four").keys() >= {"lr", "layers"}
    assert b"an artifact" in subject.files("all-four").values()
    found = blobs(subject, "all-four")
    assert not [(one.kind, one.tag) for one in contents if one.read() not in found], name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_point_is_in_every_tracker_after_an_outage_and_a_replay(
    tmp_path: Path, subjects: dict[str, Subject]
) -> None:
    clearml = subjects["clearml"].server  # pyright: ignore[reportAttributeAccessIssue]
    script = write_script(tmp_path, SCRIPT)
    asked = {**backends(tmp_path), "file": {"path": str(tmp_path / "kept")}}
    command = [sys.executable, str(script), json.dumps(asked)]
    with (tmp_path / "log.txt").open("wb") as log:
        environment = clean_environment()
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            while not (tmp_path / "half").exists():
                assert process.poll() is None, (tmp_path / "log.txt").read_text()
                threading.Event().wait(0.02)
            clearml.stop()
            (tmp_path / "go").touch()
            while not (tmp_path / "logged").exists():
                assert process.poll() is None, (tmp_path / "log.txt").read_text()
                threading.Event().wait(0.02)
            clearml.start()
            assert process.wait(200) == 0, (tmp_path / "log.txt").read_text()
        finally:
            process.kill()
            process.wait()
    said = (tmp_path / "log.txt").read_text()
    check_failures(said)
    for name in (*TRACKERS, "file"):
        assert f"{name}: captured {POINTS:,} points and " in said, said
    assert said.count("delivered all") == len(TRACKERS) + 1, said
    points = logged(tmp_path)
    assert len(points) == POINTS
    contents = records(tmp_path)
    assert {record.kind for record in contents} == KINDS
    for name, subject in subjects.items():
        check(name, subject, points, contents)

    # Once more, from the file, by hand: nothing changes.
    replay = [sys.executable, "-m", "tracelet_otel.cli", "replay", str(tmp_path / "kept")]
    for name, options in backends(tmp_path).items():
        replay += ["--backend", name]
        for option, value in options.items():
            replay += ["--option", f"{name}.{option}={value}"]
    done = subprocess.run(
        replay, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, subject in subjects.items():
        check(name, subject, points, contents)
