"""The main job: an unchanged script under ``opentelemetry-instrument``, and every point in MLflow, exact."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest

from tests.support import event_files
from tests.support import mlflow_content as mlflow
from tests.support.agents import Agents
from tests.support.scripts import run_script
from tracelet_otel.delivery.spool.reading import folders, read

SCRIPTS = {
    "tight_loop": """
        for step in range(50_000):
            writer.add_scalar(f"tag{step % 10}", math.sin(step) * 10 ** (step % 9 - 4), step)
    """,
    "threads": """
        def work(worker):
            for step in range(6_250):
                writer.add_scalar(f"worker{worker}/tag{step % 10}", math.cos(step * worker) / 3, step)
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """,
    "many_tags": """
        for step in range(25):
            for tag in range(2_000):
                writer.add_scalar(f"layer{tag // 100}/weight{tag}", step / (tag + 1), step)
    """,
}


START = """
import math, threading
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter('logs')
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [*SCRIPTS, pytest.param("tight_loop", marks=pytest.mark.in_thread("the other way"), id="in-thread")],
)
def test_fifty_thousand_points(tmp_path: Path, database: Path, name: str) -> None:
    body = SCRIPTS[name].replace("\n        ", "\n")
    code = START + body + "\nwriter.close()"
    done = run_script(tmp_path, code)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (run,) = mlflow.runs(database)
    assert run.status == "FINISHED"
    written = event_files.points(tmp_path / "logs")
    stored = {
        tag: points
        for tag, points in mlflow.points(database, run.id).items()
        if not tag.startswith("system/")  # measurements of the machine
    }
    assert sum(map(len, written.values())) == 50_000
    assert stored.keys() == written.keys()
    for tag, expected in written.items():
        found = stored[tag]
        assert [point.step for point in found] == [point.step for point in expected]
        for left, right in zip(found, expected, strict=True):
            assert struct.pack("<f", left.value) == struct.pack("<f", right.value)
            assert abs(left.timestamp_ms - right.wall_time * 1000) <= 1
    assert "captured 50,000 points and 1 record, delivered all" in done.stderr


def test_values_are_the_short_decimals_that_were_logged(tmp_path: Path, database: Path) -> None:
    code = """
    import numpy as np, torch
    from torch.utils.tensorboard import SummaryWriter
    writer = SummaryWriter("logs")
    values = [0.001, 0.1, np.float32(0.3), np.float64(0.7), torch.tensor(0.9), 3, np.int64(4)]
    for step, value in enumerate(values):
        writer.add_scalar("value", value, np.int64(step))
    writer.add_scalar("edge", float("nan"), 1)
    writer.add_scalar("edge", float("inf"), 2)
    writer.add_scalar("edge", float("-inf"), 3)
    writer.add_scalar("precise", 0.1234567890123456789, 1, new_style=True, double_precision=True)
    writer.add_scalar("dated", 1.0, 1, walltime=1_500_000_000.125)
    """
    done = run_script(tmp_path, code)
    assert done.returncode == 0, done.stderr
    stored = mlflow.points(database)
    assert [point.value for point in stored["value"]] == [0.001, 0.1, 0.3, 0.7, 0.9, 3.0, 4.0]
    edges = {point.step: point.value for point in stored["edge"]}
    assert math.isnan(edges[1])
    assert (edges[2], edges[3]) == (1.7976931348623157e308, -1.7976931348623157e308)  # MLflow's infinities
    assert [point.value for point in stored["precise"]] == [0.1234567890123456789]
    assert [point.timestamp_ms for point in stored["dated"]] == [1_500_000_000_125]


def test_bad_input_costs_itself_only(tmp_path: Path, database: Path) -> None:
    code = r"""
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter
    import tracelet_otel
    writer = SummaryWriter("logs")
    tags = ["", "a" * 5000, "größe/损失 🎉", "ctrl\x00\x01\n\t", "loss?", "loss!"]
    tags += ["a//b", "../up", "/abs", "loss ", ".", "_x0041_"]
    for tag in tags:
        writer.add_scalar(tag, 1.0, 1)
    for step in (-5, 2**62, None):
        writer.add_scalar("steps", 2.0, step)
    for bad in (lambda: writer.add_scalar("t", 1.0, 2**70), lambda: writer.add_scalar("t", "no", 1)):
        try:
            bad()
        except Exception as error:
            print(type(error).__name__)
    tracelet_otel.log_scalar("api", "text", 1)
    tracelet_otel.log_scalar("api", np.zeros(3), 1)
    tracelet_otel.log_scalar("api", 1.0, 2**70)
    tracelet_otel.log_scalar("api", 1.0, 1.5)
    tracelet_otel.log_scalar("api", None)
    tracelet_otel.log_scalar("api", 5.0, 1)
    tracelet_otel.log_image("picture", "no/such/file.png")
    tracelet_otel.log_image("picture", np.zeros((2, 2, 2, 2)))
    tracelet_otel.log_audio("sound", object())
    tracelet_otel.log_params(3)
    tracelet_otel.log_text("text", 3)
    tracelet_otel.log_artifact("no/such/file")
    writer.add_scalar("last", 1.0, 1)
    """
    done = run_script(tmp_path, code)
    assert done.returncode == 0, done.stderr
    plain = run_script(
        tmp_path,
        code.replace("import tracelet_otel", "import unittest.mock; tracelet_otel = unittest.mock.Mock()"),
        zero_code=False,
    )
    assert done.stdout == plain.stdout
    stored = mlflow.points(database)
    assert [point.value for point in stored["api"]] == [5.0]
    assert [point.step for point in stored["steps"]] == [-5, 2**62, 0]
    assert len(stored) == 12 + 3
    for said in (
        "log_scalar('api')",
        "log_image('picture')",
        "log_audio('sound')",
        "log_params()",
        "log_text('text')",
        "log_artifact('no/such/file')",
    ):
        assert done.stderr.count(f"{said}: skipped: ") == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_a_hundred_megabyte_image(tmp_path: Path, database: Path) -> None:
    code = """
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter
    writer = SummaryWriter("logs")
    from tensorboard.compat.proto.summary_pb2 import Summary
    file_writer = writer._get_file_writer()
    noise = np.random.default_rng(0).bytes(100_000_000)
    noise = b"\\x89PNG\\r\\n\\x1a\\n" + noise
    image = Summary.Image(height=1, width=1, colorspace=3, encoded_image_string=noise)
    file_writer.add_summary(Summary(value=[Summary.Value(tag="huge", image=image)]), 1)
    writer.add_scalar("loss", 1.0, 1)
    writer.close()
    """
    done = run_script(tmp_path, code)
    assert done.returncode == 0, done.stderr
    (run,) = mlflow.runs(database)
    sizes = [len(content) for content in mlflow.artifacts(run).values()]
    assert 100_000_008 in sizes
    assert "1 point and 2 records, delivered all" in done.stderr
    assert len(mlflow.points(database)["loss"]) == 1


def test_an_unwritable_folder_is_said_and_training_goes_on(tmp_path: Path, agents: Agents) -> None:
    code = """
    import tracelet_otel
    for step in range(100):
        tracelet_otel.log_scalar("loss", 1.0, step)
    print("trained")
    """
    variables = {
        "MLFLOW_TRACKING_URI": "sqlite:////proc/no/such/folder/mlflow.db",
        "TRACELET_SHUTDOWN_TIMEOUT": "5",  # in vain
    }
    done = run_script(tmp_path, code, variables=variables)
    assert (done.returncode, done.stdout) == (0, "trained\n")
    assert "captured 100 points, delivered nothing, spooled 100 points: " in done.stderr
    assert "deliver it with: tracelet-otel replay " in done.stderr
    agents.wait_until_gone()
    (spool,) = folders(tmp_path / "state")
    assert sum(batch.points for batch in read(spool)) == 100
    assert "No such file or directory: '/proc/no'" in done.stderr
    assert "Traceback" not in done.stderr
