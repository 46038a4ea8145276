"""Sweeps, blocks and child processes in every tracker: each pair of parameters and metrics is a run's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.scripts import run_script
from tests.support.subject import Subject
from tests.support.trackers import TRACKERS, backends, run_ids, subjects_in

BEGIN = """
import json, os, subprocess, sys
from torch.utils.tensorboard import SummaryWriter
import tracelet_otel

options = dict(backends={backends!r}, shutdown_timeout=60)

def tell(**runs):
    with open("runs.json", "a") as file:
        file.write(json.dumps(runs) + "\\n")
"""

SWEEP = (
    BEGIN
    + """
tracelet_otel.configure(run_id="sweep", run_name="sweep", **options)
with SummaryWriter("runs/sweep") as writer:
    for i, lr in enumerate((0.5, 0.25, 0.125)[:{count}]):
        writer.add_hparams({{"lr": lr, "hidden": 32 << i}}, {{"hp/accuracy": i / 8, "hp/loss": 1 - i / 8}})
"""
)

BLOCKS = (
    BEGIN
    + """
tracelet_otel.configure(run_id="outside", run_name="outside", **options)
with tracelet_otel.run("before", run_id="before"):
    tracelet_otel.log_scalar("loss", 1.0, 0)
tracelet_otel.log_scalar("loss", 0.5, 0)
with tracelet_otel.run("outer", run_id="outer"):
    tracelet_otel.log_params({{"lr": 1}})
    with tracelet_otel.run("inner", run_id="inner"):
        tracelet_otel.log_params({{"lr": 2}})
        tracelet_otel.log_scalar("loss", 0.25, 0)
"""
)

NESTED = (
    BEGIN
    + """
if len(sys.argv) == 1:
    tracelet_otel.configure(run_id="driver", **options)
    tracelet_otel.log_scalar("started", 1.0, 0)
    subprocess.run([sys.executable, __file__, "2"], check=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, __file__, "3"], check=True)
    tracelet_otel.log_scalar("started", 2.0, 1)
else:
    session = tracelet_otel.configure(**options)
    lr = int(sys.argv[1])
    tracelet_otel.log_params({{"lr": lr}})
    tracelet_otel.log_scalar("loss", lr / 4, 0)
    tell(lr=lr, id=session.run.id, rank=os.environ.get("RANK"))
    if lr == 3:
        import torch.distributed
        torch.distributed.init_process_group("gloo")
        torch.distributed.barrier()  # the rank that ends the run is not the first to leave
    if len(sys.argv) == 2 and lr == 2:
        subprocess.run([sys.executable, __file__, "4", "below"], check=True)
"""
)

POOL = (
    BEGIN
    + """
import multiprocessing

def trial(lr):
    tracelet_otel.configure(run_id="pool", **options)
    with SummaryWriter(f"runs/{{lr}}") as writer:
        writer.add_scalar("loss", lr / 4, 0)
        writer.add_hparams({{"lr": lr}}, {{"acc": lr / 8}})
    tracelet_otel.shutdown()

if __name__ == "__main__":
    tracelet_otel.configure(run_id="pool", run_name="pool", **options)
    with SummaryWriter("runs") as writer:
        writer.add_scalar("loss", 1.0, 0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.map(trial, (1, 2), chunksize=1)
        pool.close()
        pool.join()
"""
)

Stored = tuple[str, str, dict[str, str], dict[str, list[float]]]
"""Of a run: its parent's id, its status, its parameters, its metrics."""


def stored(subject: Subject, run_id: str) -> Stored:
    values = {
        tag: [point.value for point in points]
        for tag, points in subject.points(run_id).items()
        if not tag.startswith("system/")
    }
    return subject.parent(run_id), subject.status(run_id), subject.params(run_id), values


def run(tmp_path: Path, script: str, count: int = 0, **variables: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    code = script.format(backends=backends(tmp_path), count=count)
    done = run_script(work, code, zero_code=False, timeout=170, variables=variables)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_a_sweep_of_hyperparameters(tmp_path: Path, database: Path, count: int) -> None:
    trials = [
        ({"lr": str(lr), "hidden": str(32 << i)}, {"hp/accuracy": [i / 8], "hp/loss": [1 - i / 8]})
        for i, lr in enumerate((0.5, 0.25, 0.125)[:count])
    ]
    with subjects_in(tmp_path, database) as subjects:
        run(tmp_path, SWEEP, count)
        children = run_ids(tmp_path) - {"sweep"}
        assert len(children) == (count if count > 1 else 0)
        for name in TRACKERS:
            assert stored(subjects[name], "sweep") == ("", "finished", *trials[0]), name
            found = sorted(
                (stored(subjects[name], one) for one in children), key=lambda one: one[3]["hp/accuracy"]
            )
            assert found == [("sweep", "finished", *trial) for trial in trials if count > 1], name


@pytest.mark.slow
def test_blocks_in_a_session(tmp_path: Path, database: Path) -> None:
    with subjects_in(tmp_path, database) as subjects:
        run(tmp_path, BLOCKS)
        assert run_ids(tmp_path) == {"before", "outside", "outer", "inner"}
        for name in TRACKERS:
            found = {one: stored(subjects[name], one) for one in ("before", "outside", "outer", "inner")}
            assert found == {
                "before": ("", "finished", {}, {"loss": [1.0]}),
                "outside": ("", "finished", {}, {"loss": [0.5]}),
                "outer": ("outside", "finished", {"lr": "1"}, {}),
                "inner": ("outer", "finished", {"lr": "2"}, {"loss": [0.25]}),
            }, name


@pytest.mark.slow
def test_processes_with_runs_of_their_own(tmp_path: Path, database: Path) -> None:
    with subjects_in(tmp_path, database) as subjects:
        run(tmp_path, NESTED, TRACELET_CHILD_RUNS="nested")
        lines = [json.loads(line) for line in (tmp_path / "work" / "runs.json").read_text().splitlines()]
        ids = {line["lr"]: line["id"] for line in lines}
        assert {(line["lr"], line["rank"]) for line in lines} == {
            (2, None),
            (3, "0"),
            (3, "1"),
            (4, None),
        }
        assert len({(line["lr"], line["id"]) for line in lines}) == 3
        assert run_ids(tmp_path) == {"driver", *ids.values()}
        for name in TRACKERS:
            assert stored(subjects[name], "driver") == ("", "finished", {}, {"started": [1.0, 2.0]}), name
            for lr, above in ((2, "driver"), (3, "driver"), (4, ids[2])):
                values = {"loss": [lr / 4], **({"loss/rank_1": [lr / 4]} if lr == 3 else {})}
                found = stored(subjects[name], ids[lr])
                assert found == (above, "finished", {"lr": str(lr)}, values), (name, lr)


@pytest.mark.slow
def test_trials_in_processes_that_join_the_run(tmp_path: Path, database: Path) -> None:
    with subjects_in(tmp_path, database) as subjects:
        run(tmp_path, POOL)
        children = run_ids(tmp_path) - {"pool"}
        for name in TRACKERS:
            parent, status, params, values = stored(subjects[name], "pool")
            assert (parent, status, params) == ("", "finished", {}), name
            assert sorted(values.values()) == [[0.25], [0.5], [1.0]], name
            found = sorted((stored(subjects[name], one) for one in children), key=str)
            assert found == [("pool", "finished", {"lr": str(lr)}, {"acc": [lr / 8]}) for lr in (1, 2)], name
