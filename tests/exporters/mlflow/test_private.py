"""What is left of MLflow's tracker when MLflow has one private name fewer."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.support.private_names import rename
from tracelet_otel.foundation.private_names import PrivateName
from tracelet_otel.otlp.records import Point, RunInfo, Series
from tracelet_otel_exporters.mlflow import private
from tracelet_otel_exporters.mlflow.tracker import MLflowTracker

OF_A_SERVER = (private.HTTP_REQUEST, private.VERIFY_RESPONSE, private.HOST_CREDENTIALS)
NOW = 1_700_000_000_000_000_000


@pytest.mark.parametrize("name", [*private.MLFLOW], ids=lambda name: name.path)
def test_everything_arrives_without(
    name: PrivateName,
    request: pytest.FixtureRequest,
    new_tracker: Callable[[str], MLflowTracker],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rename(monkeypatch, name)
    uri = request.getfixturevalue("server_uri" if name in OF_A_SERVER else "sqlite_uri")
    tracker = new_tracker(uri)
    run_id = uuid.uuid4().hex
    tracker.open_run(RunInfo(run_id, "first", experiment=run_id, tags={"team": "vision"}))
    tracker.open_run(RunInfo(run_id, "second", experiment=run_id))
    points = [Point(step, step / 2, NOW + step * 1_000_000) for step in range(20)]
    assert tracker.write_points(run_id, [Series(run_id, "loss", points)]).accepted == 20
    (tmp_path / "file").write_bytes(b"content")
    tracker.write_file(run_id, "file", tmp_path / "file")
    tracker.close_run(run_id, "failed")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(run_id)
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    stored = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in stored] == [(p.step, p.value) for p in points]
    assert (run.info.status, run.info.run_name, run.data.tags["team"]) == ("FAILED", "second", "vision")
    assert [info.path for info in client.list_artifacts(run.info.run_id)] == ["file"]
    assert name.lost in caplog.text
