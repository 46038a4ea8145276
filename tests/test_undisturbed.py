"""The user's files, output, exit code and exceptions are the same with and without us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.compat.proto.graph_pb2 import GraphDef  # pyright: ignore[reportAttributeAccessIssue]

from tests.support import event_files
from tests.support.scripts import run_script

SCRIPT = """
import sys
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

torch.manual_seed(0)
rng = np.random.default_rng(0)
with SummaryWriter("logs/train") as writer, SummaryWriter("logs/validation") as other:
    for step in range(200):
        writer.add_scalar("loss", rng.random(), step)
        other.add_scalar("loss", rng.random(), step)
        print("step", step)
    writer.add_scalars("both", {"a": 1.0, "b": 2.0}, 1)
    writer.add_text("note", "text", 1)
    writer.add_image("image", rng.random((3, 8, 8)), 1)
    writer.add_histogram("weights", rng.random(100), 1)
    writer.add_pr_curve("curve", np.array([0, 1, 1]), np.array([0.1, 0.6, 0.9]), 1)
    writer.add_hparams({"lr": 0.1}, {"accuracy": 0.9}, run_name="hparams")
    writer.add_embedding(torch.rand(4, 3), tag="embedding", global_step=1)
    writer.add_graph(torch.nn.Linear(2, 2), torch.rand(1, 2))
print("to stderr", file=sys.stderr)

import lightning
class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, index):
        loss = self.layer(batch[0]).square().mean()
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(32, 4)), batch_size=4)
trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", log_every_n_steps=1, enable_progress_bar=False,
                            enable_model_summary=False, default_root_dir="lightning")
print(trainer.fit(Model(), data), trainer.callback_metrics, sorted(trainer.__dict__))
print([type(callback).__name__ for callback in trainer.callbacks], type(trainer.logger))
raise ValueError("the end")
"""


def timeless(event: Any) -> bytes:
    event.wall_time = 0
    for value in event.summary.value:  # the session's start and end times
        if value.metadata.plugin_data.plugin_name == "hparams":
            value.metadata.plugin_data.content = b""
    if event.HasField("tagged_run_metadata"):  # the profile of one execution
        event.tagged_run_metadata.run_metadata = b""
    if event.HasField("graph_def"):  # its nodes' attributes are a map: their order on the wire is chance
        graph = GraphDef.FromString(event.graph_def)
        event.graph_def = graph.SerializeToString(deterministic=True)
    return event.SerializeToString(deterministic=True)


def what_a_run_leaves(folder: Path, *, zero_code: bool) -> tuple[Any, ...]:
    folder.mkdir()
    # the order of nodes in a graph depends on the hash seed
    done = run_script(folder, SCRIPT, zero_code=zero_code, variables={"PYTHONHASHSEED": "0"}, timeout=110)
    ours = {"mlflow.db", "mlruns"}
    files: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder)
        if relative.parts[0] in ours:
            continue
        if "tfevents" in path.name:
            files[str(relative.parent)] = [timeless(event) for event in event_files.events(path.parent)]
        else:
            files[str(relative)] = None if path.suffix == ".ckpt" else path.read_bytes()
    errors = [line for line in done.stderr.splitlines() if not line.startswith("tracelet-otel: ")]
    return done.returncode, done.stdout, [line for line in errors if "site-packages" not in line], files


def test_with_and_without(tmp_path: Path, empty_database: Path) -> None:
    with_us = what_a_run_leaves(tmp_path / "with", zero_code=True)
    without = what_a_run_leaves(tmp_path / "without", zero_code=False)
    assert with_us[0] == without[0] == 1
    assert with_us[1] == without[1]
    assert [line.replace("/with/", "/without/") for line in with_us[2]] == without[2]
    assert with_us[3].keys() == without[3].keys()
    for path, content in without[3].items():
        assert with_us[3][path] == content, path
    assert any(path.endswith(".ckpt") for path in without[3])
    assert len([path for path, content in without[3].items() if isinstance(content, list)]) >= 6
