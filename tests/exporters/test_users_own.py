"""A script that uses the trackers itself, beside ours with the same trackers: neither notices the other."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import mlflow_content
from tests.support.clearml_subject import ClearMLSubject
from tests.support.contract_data import LoggedPoint, check_points
from tests.support.scripts import run_script
from tests.support.subject import Subject
from tests.support.wandb_subject import records, rows

SCRIPT = """
import faulthandler, json, os
ours = os.environ.pop("OURS", "")
if ours:
    import tracelet_otel
    tracelet_otel.configure(backends=json.loads(ours), run_id="ours", run_name="ours")

import argparse, sys
from pathlib import Path
import aim, clearml, mlflow, wandb
from tensorboardX import SummaryWriter

sys.argv += ["--lr", "0.5"]
task = clearml.Task.init("project", "users", auto_resource_monitoring=False)
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
print(parser.parse_args())
mlflow.start_run(run_name="users")
mlflow.log_param("lr", 0.25)
writer = SummaryWriter("logs")
for step in range(60):
    if ours:
        tracelet_otel.log_scalar("loss", step / 2, step, wall_time=1_700_000_000 + step)
    writer.add_scalar("tb/loss", step / 4, step, walltime=1_700_000_000 + step)
    mlflow.log_metric("loss", step / 3, step=step, timestamp=1_700_000_000_000 + step)
    task.get_logger().report_scalar("loss", "loss", step / 5, step)
    if step == 20:  # ours has begun
        run = wandb.init(project="mine", id="mine", mode="offline", config={"lr": 0.125})
        users = aim.Run(repo="repository", experiment="mine", log_system_params=False)
        users["hparams"] = {"lr": 0.0625}
        Path("hash").write_text(users.hash)
    if step >= 20:
        wandb.log({"loss": step / 6}, step=step)
        users.track(step / 7, name="loss", step=step)
    print("step", step)
writer.close()
print(mlflow.active_run().info.run_name, wandb.run is run, clearml.Task.current_task() is task)
faulthandler.dump_traceback_later(100)  # shows what waits: ClearML's end was seen to hang, without us too
task.close()
raise ValueError("the end")
"""
_OFTEN_OTHER = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\S*|\d{8}_\d{6}|127\.0\.0\.1:\d+|[0-9a-f]{32}")
"""Times, ports and ids."""


class Left(NamedTuple):
    """What a script left: its own, not ours."""

    code: int
    steps: list[str]
    """Lines of stdout, in order."""
    lines: Counter[str]
    """All lines of stdout; the trackers' threads write too."""
    errors: list[str]
    """The last line of each traceback; W&B prints one too."""
    mlflow: Any
    wandb: Any
    aim: Any
    clearml: Any


class Place:
    """A folder with four trackers.

    Args:
        folder: an empty one.
        database: MLflow's, empty.
    """

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        self.subjects: dict[str, Subject] = {}
        shutil.copy(database, folder / "mlflow.db")
        (folder / "ours").mkdir()
        for name in ("mlflow", "wandb", "aim", "clearml"):
            module: Any = importlib.import_module(f"tests.support.{name}_subject")
            self.subjects[name] = module.make_subject(folder / "ours" if name == "wandb" else folder)

    def run(self, *, ours: bool) -> Left:
        """Runs the script; what is the user's."""
        clearml = self.subjects["clearml"]
        assert isinstance(clearml, ClearMLSubject)
        variables = {**clearml.server.variables(), "HOME": str(self.folder)}
        if ours:
            options: dict[str, Any] = {
                "mlflow": {},
                "wandb": {"mode": "offline", "dir": str(self.folder / "ours")},
                "aim": {"repo": str(self.folder / "repository")},
                "clearml": {},
            }
            variables["OURS"] = json.dumps(options)
        done = run_script(self.folder, SCRIPT, zero_code=False, variables=variables, timeout=200)
        closing = [line for line in done.stderr.splitlines() if "captured 120 points" in line]
        assert len(closing) == (4 if ours else 0), done.stderr
        assert all("delivered all -> " in line for line in closing), done.stderr
        lines = _OFTEN_OTHER.sub("-", done.stdout.replace(str(self.folder), "")).splitlines()
        errors = [line for line in done.stderr.splitlines() if line.startswith("ValueError: ")]
        return Left(
            done.returncode,
            [line for line in lines if line.startswith(("step", "Namespace", "users"))],
            Counter(lines),
            errors,
            *(self._mlflow(), self._wandb(), self._aim(), self._clearml(clearml)),
        )

    def _mlflow(self) -> Any:
        database = self.folder / "mlflow.db"
        (run,) = [run for run in mlflow_content.runs(database) if run.name == "users"]
        return (
            run.status,
            mlflow_content.points(database, run.id),
            mlflow_content.params(database, run.id),
            sorted(tag for tag in mlflow_content.tags(database, run.id)),
        )

    def _wandb(self) -> Any:
        (log,) = self.folder.glob("wandb/offline-run-*/*.wandb")
        found = [{k: v for k, v in row.items() if not k.startswith("_") or k == "_step"} for row in rows(log)]
        every = list(records(log))
        config = {
            item.key: item.value_json
            for record in every
            if record.HasField("run")
            for item in record.run.config.update
            if item.key != "_wandb"
        }
        return found, config, [record.exit.exit_code for record in every if record.HasField("exit")]

    def _aim(self) -> Any:
        hash_ = (self.folder / "hash").read_text()
        subject = self.subjects["aim"]
        stored = {
            tag: [(point.step, point.value) for point in points]
            for tag, points in subject.points(hash_).items()
        }
        return stored, subject.params(hash_)

    def _clearml(self, subject: ClearMLSubject) -> Any:
        store = subject.server.store
        (task,) = [task for task in store.tasks.values() if task["name"] == "users"]
        scalars = [
            (event["metric"], event["variant"], event["iter"], event["value"])
            for event in store.events["training_stats_scalar"].values()
            if event["task"] == task["id"]
        ]
        return task["status"], sorted(scalars), task["hyperparams"]

    def close(self) -> None:
        """Ends the servers."""
        for subject in self.subjects.values():
            subject.close()


@pytest.fixture
def places(tmp_path: Path, empty_database: Path) -> Iterator[dict[str, Place]]:
    made: dict[str, Place] = {}
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        made[name] = Place(tmp_path / name, empty_database)
    yield made
    for place in made.values():
        place.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore:The ``declarative_base")  # AIM: SQLAlchemy
def test_the_users_own_trackers_beside_ours(places: dict[str, Place]) -> None:
    with_us, without = places["with"].run(ours=True), places["without"].run(ours=False)
    for name, value in without._asdict().items():
        assert getattr(with_us, name) == value, name

    # What that is: not nothing, and not ours.
    assert (without.code, set(without.errors)) == (1, {"ValueError: the end"})
    assert len(without.steps) == 62
    assert len(without.mlflow[1]["loss"]) == 60
    assert [row["loss"] for row in without.wandb[0]] == [step / 6 for step in range(20, 60)]
    assert without.aim[0]["loss"] == [(step, step / 7) for step in range(20, 60)]
    assert ("loss", "loss", 7, 7 / 5) in without.clearml[1]

    logged = [
        LoggedPoint(tag, None, step, step / divisor, (1_700_000_000 + step) * 10**9)
        for tag, divisor in (("loss", 2), ("tb/loss", 4))
        for step in range(60)
    ]
    for name, subject in places["with"].subjects.items():
        besides = {tag for tag in subject.points("ours") if tag.startswith("system/")}
        check_points(subject, "ours", logged, subject.make().capabilities.time_resolution_ns, besides)
        assert subject.status("ours") == "failed", name
