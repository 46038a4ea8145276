"""Launchers and workers open no run of their own; the ranks of one launch share one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import tracelet_otel
from tests.delivery.otlp.receiver import receiver
from tests.support import mlflow_content as mlflow
from tests.support.scripts import run_command, run_script, script_command, write_script
from tracelet_otel import semconv
from tracelet_otel.otlp.decoding import decode_attributes
from tracelet_otel.session import sampler

RESTARTED_SCRIPT = """
import os, sys
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter
dist.init_process_group("gloo")
rank, attempt = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
with SummaryWriter(f"logs/{rank}") as writer:
    for step in range(50 * attempt, 50 * attempt + 50):
        writer.add_scalar("loss", step + rank * 1000, step)
    writer.add_text("note", f"of rank {rank}", attempt)
    dist.barrier()
    if attempt == 0:
        if rank == 1:
            sys.exit(3)
        dist.barrier()  # for a rank that does not come any more
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["zero", "all"])
def test_ranks_that_torchrun_restarts_are_one_run(tmp_path: Path, database: Path, ranks: str) -> None:
    script = write_script(tmp_path, RESTARTED_SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = script_command(script)
    with receiver("http/protobuf") as inbox:
        variables = {
            "OTEL_METRICS_EXPORTER": "otlp,mlflow",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": inbox.endpoint,
            "TRACELET_RANKS": ranks,
            # Without it, torch 2.13's restarted workers look for gloo at the addresses of those before.
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        done = run_command([*command[:2], *torchrun, *command[2:]], tmp_path, variables, timeout=110)
    assert done.returncode == 0, done.stderr
    ids = {decode_attributes(record.attributes)[semconv.RUN_ID] for _, record in inbox.records()}
    assert len(ids) == 1  # of both attempts and all ranks; and none of the launcher
    heard = range(2 if ranks == "all" else 1)
    points = inbox.points()
    assert {name: [point.value for point in found] for name, found in points.items()} == {
        "loss" if not rank else f"loss/rank_{rank}": [rank * 1000.0 + step for step in range(100)]
        for rank in heard
    }
    notes = sorted(record.body.bytes_value.decode() for record in inbox.events("text"))
    assert notes == sorted(f"of rank {rank}" for rank in heard for _ in range(2))
    statuses = [decode_attributes(record.attributes)[semconv.RUN_STATUS] for record in inbox.events("status")]
    assert statuses in (["killed", "finished"], ["failed", "finished"])  # rank 0 alone says it
    assert done.stderr.count("tracelet-otel: run ") == 2 * len(heard)
    (run,) = mlflow.runs(database)
    assert run.status == "FINISHED"
    stored = mlflow.points(database)
    for rank in heard:
        found = stored["loss" if not rank else f"loss/rank_{rank}"]
        assert [point.value for point in found] == [rank * 1000.0 + step for step in range(100)]


@pytest.mark.parametrize(
    ("rank", "local_rank", "opens", "measures"), [(4, 0, True, True), (5, 1, False, False)]
)
def test_a_rank_that_is_not_recorded_still_measures_its_node(
    monkeypatch: pytest.MonkeyPatch, rank: int, local_rank: int, opens: bool, measures: bool
) -> None:
    monkeypatch.setattr(sampler, "INTERVAL_S", 0.05)
    for name, value in {"RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": 8}.items():
        monkeypatch.setenv(name, str(value))
    with receiver("http/protobuf") as inbox:
        backend = {"endpoint": inbox.endpoint, "protocol": "http/protobuf"}
        tracelet_otel.configure({"otlp": backend}, run_id="r", ranks="zero", export_interval=20)
        tracelet_otel.log_scalar("loss", 1.0, 0)
        tracelet_otel.log_text("note", "unheard", 0)
        if measures:
            inbox.wait_for(lambda: bool(inbox.metrics))
        tracelet_otel.shutdown()
    names = {
        metric.name
        for request in inbox.metrics
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert ("system.memory.utilization" in names) == measures
    assert semconv.SCALAR not in names
    assert [record.event_name for _, record in inbox.records()] == ["tracelet.run"] * opens


def test_a_launcher_that_logs_nothing_opens_no_run(tmp_path: Path) -> None:
    done = run_script(
        tmp_path, f"import subprocess; subprocess.run([{sys.executable!r}, '-c', 'pass'], check=True)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "mlflow.db").exists()
