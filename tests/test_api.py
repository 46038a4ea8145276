"""The public functions, in this process, with MLflow read back."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tracelet_otel
from tests.support import mlflow_content as mlflow
from tracelet_otel.run_owner import RUN_ID_VARIABLE, RUN_OWNER_VARIABLE
from tracelet_otel.session import process
from tracelet_otel.session.session import Session

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@pytest.fixture
def session(database: Path) -> Session:
    return tracelet_otel.configure("mlflow", project="vision", run_name="first", tags={"team": "a"})


def only_run(database: Path) -> mlflow.StoredRun:
    (run,) = mlflow.runs(database)
    return run


def test_scalars_of_every_type(session: Session, database: Path) -> None:
    values: list[Any] = [
        1.5, 2, True, np.float32(0.1), np.float64(0.1), np.int64(7), np.array([[0.25]]), torch.tensor(0.1),
        torch.tensor([3]), torch.tensor(0.1, dtype=torch.bfloat16), np.float16(0.5),
    ]  # fmt: skip
    for value in values:
        tracelet_otel.log_scalar("value", value)
    tracelet_otel.log_scalars({"a": 1.0, "b": np.float32(0.3)}, step=np.int64(5), wall_time=1_600_000_000.5)
    assert tracelet_otel.flush()
    stored = mlflow.points(database)
    assert [point.step for point in stored["value"]] == list(range(11))
    assert [point.value for point in stored["value"]][:9] == [1.5, 2.0, 1.0, 0.1, 0.1, 7.0, 0.25, 0.1, 3.0]
    assert stored["value"][9].value == pytest.approx(0.1, rel=0.01)
    assert stored["b"] == [mlflow.StoredPoint(5, 0.3, 1_600_000_000_500)]


def test_a_step_that_is_not_given_follows_the_last_one(session: Session, database: Path) -> None:
    tracelet_otel.log_scalar("loss", 1.0)
    tracelet_otel.log_scalar("loss", 1.0, 10)
    tracelet_otel.log_scalar("loss", 1.0)
    tracelet_otel.log_scalar("other", 1.0)
    tracelet_otel.flush()
    assert [point.step for point in mlflow.points(database)["loss"]] == [0, 10, 11]
    assert [point.step for point in mlflow.points(database)["other"]] == [0]


def test_every_kind_of_record_is_read_back(session: Session, database: Path, tmp_path: Path) -> None:
    from matplotlib.figure import Figure
    from PIL import Image

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    large = tmp_path / "weights.bin"
    large.write_bytes(bytes(range(256)) * 10_000)
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "notes.txt").write_text("notes")
    figure = Figure()
    figure.subplots().plot([1, 2])

    tracelet_otel.log_params({"lr": 0.1, "net": {"depth": 3, "widths": [1, 2]}, "when": Path("x")})
    tracelet_otel.log_text("notes", "größe", 3)
    tracelet_otel.log_image("array", pixels, 1)
    tracelet_otel.log_image("tensor", torch.rand(3, 4, 5), 1)
    tracelet_otel.log_image("float", np.full((2, 2), 0.5), 1)
    tracelet_otel.log_image("pil", Image.fromarray(pixels), 1)
    tracelet_otel.log_figure("figure", figure, 1)
    tracelet_otel.log_audio("tone", np.sin(np.arange(800) / 10), 8000, 1)
    tracelet_otel.log_histogram("weights", torch.arange(100.0), 1)
    tracelet_otel.log_histogram("counted", (np.array([1, 2]), np.array([0.0, 1.0, 2.0])), 1)
    tracelet_otel.log_artifact(large)
    large.write_bytes(b"changed after it was logged")
    tracelet_otel.log_artifact(folder, "copied")
    assert tracelet_otel.flush()

    run = only_run(database)
    found = mlflow.artifacts(run)
    assert mlflow.params(database)["lr"] == "0.1"
    assert mlflow.params(database)["net/depth"] == "3"
    assert mlflow.params(database)["when"] == "x"
    assert found["text/notes/3.txt"].decode() == "größe"
    assert found["weights.bin"] == bytes(range(256)) * 10_000
    assert found["copied/inner/notes.txt"] == b"notes"
    with wave.open(io.BytesIO(found["audio/tone/1.wav"])) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (8000, 800)
    histogram = json.loads(found["histogram/weights/1.json"])
    assert (histogram["min"], histogram["max"], histogram["num"], histogram["sum"]) == (
        0.0,
        99.0,
        100.0,
        4950.0,
    )
    assert sum(histogram["bucket_counts"]) == 100
    assert json.loads(found["histogram/counted/1.json"])["bucket_counts"] == [0.0, 1.0, 2.0]
    images = {path: content for path, content in found.items() if path.endswith(".png")}
    for tag in ("array", "tensor", "float", "pil", "figure"):
        (content,) = [data for path, data in images.items() if path.startswith(f"images/{tag}+")]
        picture = np.asarray(Image.open(io.BytesIO(content)))
        if tag in ("array", "pil"):
            assert (picture == pixels).all()
        if tag == "tensor":
            assert picture.shape == (4, 5, 3)
        if tag == "float":
            assert (picture == 128).all()


def test_the_run_is_filed_named_and_tagged(session: Session, database: Path) -> None:
    tracelet_otel.log_scalar("loss", 1.0)
    tracelet_otel.shutdown()
    run = only_run(database)
    assert (run.experiment, run.name, run.status) == ("vision", "first", "FINISHED")
    assert mlflow.tags(database)["team"] == "a"
    assert mlflow.tags(database)["tracelet.run.id"] == session.run.id


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (RuntimeError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_configure_is_a_context_manager(database: Path, error: BaseException | None, status: str) -> None:
    def work() -> None:
        with tracelet_otel.configure() as session:
            assert process.session() is session
            tracelet_otel.log_scalar("loss", 1.0)
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert process.session() is None
    assert only_run(database).status == status


def test_a_run_is_resumed_by_its_id(database: Path) -> None:
    for step in range(2):
        with tracelet_otel.configure(run_id="attempt", project="p"):
            tracelet_otel.log_scalar("loss", float(step), step)
    assert [point.step for point in mlflow.points(database, only_run(database).id)["loss"]] == [0, 1]


def test_what_ends_inside_a_block_leaves_no_run_for_children() -> None:
    with contextlib.ExitStack() as blocks:
        tracelet_otel.configure("file")
        tracelet_otel.log_scalar("loss", 1.0)
        for _ in range(2):
            blocks.enter_context(tracelet_otel.run())
            tracelet_otel.log_scalar("loss", 1.0)
        assert RUN_ID_VARIABLE in os.environ
        tracelet_otel.shutdown()
    assert not {RUN_ID_VARIABLE, RUN_OWNER_VARIABLE} & os.environ.keys()


def test_configure_again_ends_the_run_and_starts_anew(session: Session, database: Path) -> None:
    tracelet_otel.log_scalar("loss", 1.0)
    tracelet_otel.configure("mlflow", run_name="second")
    tracelet_otel.log_scalar("loss", 2.0)
    tracelet_otel.shutdown("failed")
    assert [(run.name, run.status) for run in mlflow.runs(database)] == [
        ("first", "FINISHED"),
        ("second", "FAILED"),
    ]


def test_a_wrong_configure_leaves_the_session_as_it_was(session: Session, database: Path) -> None:
    for arguments in ({"backends": "mlfow"}, {"backends": {"mlflow": {"uri": "x"}}}, {"project": 3}):
        with pytest.raises(tracelet_otel.ConfigurationError):
            tracelet_otel.configure(**arguments)  # pyright: ignore[reportArgumentType]
    assert process.session() is session
    tracelet_otel.log_scalar("loss", 1.0)
    assert tracelet_otel.flush()
    assert len(mlflow.points(database)["loss"]) == 1
    with pytest.raises(tracelet_otel.ConfigurationError, match="status must be finished, failed or killed"):
        tracelet_otel.shutdown("done")  # pyright: ignore[reportArgumentType]


def test_several_runs_in_a_process(session: Session, database: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for number in range(3):
        with tracelet_otel.run(name=f"sweep-{number}", tags={"number": str(number)}):
            tracelet_otel.log_params({"lr": number})
            with SummaryWriter(f"logs/{number}") as writer:
                writer.add_scalar("loss", number, 1)
            thread = threading.Thread(target=tracelet_otel.log_scalar, args=("thread", number, 1))
            thread.start()
            thread.join()

    def diverge() -> None:
        with tracelet_otel.run(name="broken"):
            tracelet_otel.log_scalar("loss", 9.0, 1)
            raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        diverge()
    with tracelet_otel.run(name="never opens"):
        pass
    tracelet_otel.log_scalar("after", 1.0, 1)
    tracelet_otel.shutdown()
    runs = {run.name: run for run in mlflow.runs(database)}
    assert runs.keys() == {"sweep-0", "sweep-1", "sweep-2", "broken", "first"}
    assert runs["broken"].status == "FAILED"
    for number in range(3):
        run = runs[f"sweep-{number}"]
        assert (run.status, run.experiment) == ("FINISHED", "vision")
        stored = mlflow.points(database, run.id)
        assert [p.value for p in stored["loss"]] == [number]
        assert [p.value for p in stored["thread"]] == [number]
        assert mlflow.params(database, run.id) == {"lr": str(number)}
        assert mlflow.tags(database, run.id)["team"] == "a"
    assert mlflow.points(database, runs["first"].id).keys() == {"after"}


def test_without_configure_everything_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    tracelet_otel.log_scalar("loss", 1.0)
    tracelet_otel.log_text("t", "x")
    tracelet_otel.log_artifact("no/such/file")
    with tracelet_otel.run(name="r"):
        tracelet_otel.log_params({"a": 1})
    assert tracelet_otel.flush()
    tracelet_otel.shutdown()
    assert capsys.readouterr() == ("", "")


def test_code_of_the_older_package_runs(database: Path) -> None:
    import tracelet_otel as tracelet

    experiment = tracelet.start_logging(
        exp_name="exp", project="old", backend="mlflow", config={"track_git": True}
    )
    experiment.log_metric("loss", 0.5, 3)
    experiment.log_params({"lr": 0.1})
    assert tracelet.get_active_experiment() is experiment
    tracelet.stop_logging()
    assert tracelet.get_active_experiment() is None
    run = only_run(database)
    assert (run.name, run.experiment, run.status) == ("exp", "old", "FINISHED")
    assert mlflow.points(database)["loss"][0][:2] == (3, 0.5)
    with pytest.raises(tracelet_otel.ConfigurationError, match="api_key is not taken"):
        tracelet.start_logging(api_key="secret")


def test_the_users_own_mlflow_is_undisturbed(database: Path) -> None:
    import mlflow as users

    users.set_tracking_uri(f"sqlite:///{database}")
    try:
        users.set_experiment("mine")
        with users.start_run(run_name="users") as active:
            tracelet_otel.configure("mlflow", run_name="ours")
            tracelet_otel.log_scalar("loss", 1.0, 1)
            users.log_metric("own", 2.0)
            tracelet_otel.shutdown()
            assert users.active_run() is active
            users.log_metric("own", 3.0)
    finally:
        users.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
    runs = {run.name: run for run in mlflow.runs(database)}
    assert {name: run.status for name, run in runs.items()} == {"users": "FINISHED", "ours": "FINISHED"}
    assert mlflow.points(database, runs["users"].id).keys() == {"own"}
    assert mlflow.points(database, runs["ours"].id).keys() == {"loss"}


def test_the_exporter_works_alone_in_a_users_own_reader(database: Path) -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    from tracelet_otel.otlp.records import RunInfo
    from tracelet_otel_exporters.mlflow.otel import MLflowMetricExporter

    exporter = MLflowMetricExporter(run=RunInfo("alone", name="alone", experiment="e"))
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)])
    meter = provider.get_meter("user")
    meter.create_gauge("temperature").set(20.5)
    counter = meter.create_counter("batches")
    meter.create_histogram("latency").record(3.0, {"route": "a"})
    counter.add(2)
    assert provider.force_flush()
    counter.add(1)
    provider.shutdown()
    run = only_run(database)
    assert (run.name, run.experiment, run.status) == ("alone", "e", "FINISHED")
    stored = mlflow.points(database)
    assert [(p.step, p.value) for p in stored["batches"]] == [(0, 2.0), (1, 3.0)]
    assert stored["temperature"][0].value == 20.5
    assert len(stored) == 6  # and the histogram's four


def test_a_value_that_comes_after_the_end_of_its_run(session: Session, database: Path) -> None:
    import contextvars

    with tracelet_otel.run(name="short"):
        tracelet_otel.log_scalar("loss", 1.0, 1)
        inside = contextvars.copy_context()
    tracelet_otel.flush()
    inside.run(tracelet_otel.log_scalar, "late", 2.0, 1)
    tracelet_otel.shutdown()
    run = only_run(database)
    assert (run.name, run.status) == ("short", "FINISHED")
    assert mlflow.points(database, run.id).keys() == {"loss", "late"}
