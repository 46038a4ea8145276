"""Folds that Lightning trains, in one process: every tracker has what their event files hold."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from tests.support import event_files
from tests.support.scripts import run_script
from tests.support.trackers import TRACKERS, backends, scalars, subjects_in

FOLDS = """
import warnings
warnings.filterwarnings("ignore")
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader
import tracelet_otel

tracelet_otel.configure(backends={backends!r}, run_id="folds", shutdown_timeout=60, isolation={isolation!r})

class Model(pl.LightningModule):
    def __init__(self, rate):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, index):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def on_train_end(self):
        self.logger.log_metrics({{"best/acc": 1.0}}, step=self.global_step)
        self.logger.experiment.add_scalar("direct", self.hparams.rate, 7)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams.rate)

def train(fold):
    logger = pl.loggers.TensorBoardLogger("tb", name=f"fold{{fold}}", default_hp_metric=False)
    trainer = pl.Trainer(
        max_epochs=2, logger=logger, log_every_n_steps=1, accelerator="cpu", enable_progress_bar=False,
    )
    trainer.fit(Model(fold / 8), DataLoader(torch.rand(12, 4), batch_size=4))

if __name__ == "__main__":
    for fold in range(3):
        train(fold)
"""


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_each_fold_is_apart_in_every_tracker(tmp_path: Path, database: Path, isolation: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    marks = ["", "fold1/version_0:::/", "fold2/version_0:::/"]
    with subjects_in(tmp_path, database) as subjects:
        code = FOLDS.format(backends=backends(tmp_path), isolation=isolation)
        done = run_script(work, code, zero_code=False, timeout=170)
        assert done.returncode == 0, done.stderr
        expected = {
            mark + tag: sorted((point.step, point.value) for point in points)
            for fold, mark in enumerate(marks)
            for tag, points in event_files.points(work / f"tb/fold{fold}/version_0").items()
        }
        assert len(expected) == 12
        for name in TRACKERS:
            stored = {
                tag: [(step, float(numpy.float32(value))) for step, value in points]
                for tag, points in scalars(subjects[name], "folds").items()
            }
            assert stored == expected, name
            params = subjects[name].params("folds")
            rates = {key: value for key, value in params.items() if key.endswith("rate")}
            assert rates == {f"{mark}rate": str(fold / 8) for fold, mark in enumerate(marks)}, name
            files = [file for file in subjects[name].files("folds") if file.startswith("checkpoints/")]
            assert len(files) == 6, name  # each fold's has a name of its own
