"""A fit on several processes that Lightning starts itself is one run, which rank 0 describes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import event_files
from tests.support.scripts import run_script
from tests.support.trackers import TRACKERS, backends, subjects_in

SCRIPT = """
import warnings
warnings.filterwarnings("ignore")
import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset
import tracelet_otel

tracelet_otel.configure(backends={backends!r}, run_id="ranks", shutdown_timeout=60)

class Model(pl.LightningModule):
    def __init__(self, rate=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch):
        loss = self.layer(batch[0]).square().mean()
        self.log("ranks", torch.tensor(self.global_rank + 1.0), sync_dist=True)
        self.log("loss", loss)
        return loss

    def test_step(self, batch):
        self.log("test", self.layer(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)

if __name__ == "__main__":
    data = DataLoader(TensorDataset(torch.rand(16, 4)), batch_size=2)
    model = Model()
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy={strategy!r}, max_epochs=2, log_every_n_steps=1,
        logger=TensorBoardLogger("logs", name="", version=""), enable_progress_bar=False,
    )
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp"])
def test_processes_of_a_strategy_are_one_run(tmp_path: Path, database: Path, strategy: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with subjects_in(tmp_path, database) as subjects:
        code = SCRIPT.format(backends=backends(tmp_path), strategy=strategy)
        done = run_script(work, code, timeout=250)
        assert done.returncode == 0, done.stderr
        written = {
            tag: {(point.step, np.float32(point.value)) for point in points}
            for tag, points in event_files.points(work / "logs").items()
            if tag != "hp_metric"
        }
        assert {"ranks", "loss", "test"} <= written.keys()
        for name in TRACKERS:
            stored = subjects[name].points("ranks")
            for tag, points in written.items():
                # The fit and the test both log the epoch at step 0, which AIM and ClearML keep once.
                assert {(one.step, np.float32(one.value)) for one in stored[tag]} == points, (tag, name)
            assert not [tag for tag in stored if "rank_" in tag], name
            assert subjects[name].params("ranks")["rate"] == "0.1", name
            assert subjects[name].status("ranks") == "finished", name
        for kind in ("environment.json", "model_summary"):
            assert len([path for path in subjects["mlflow"].files("ranks") if kind in path]) == 1
