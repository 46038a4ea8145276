"""Trains a small network on scikit-learn's handwritten digits with Lightning.

    python examples/lightning_digits.py

It knows nothing of tracelet-otel. Run it under `opentelemetry-instrument` and the metrics,
hyperparameters, checkpoints and the model's summary go to your experiment tracker too:

    opentelemetry-instrument --metrics_exporter mlflow python examples/lightning_digits.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class Digits(lightning.LightningDataModule):
    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        images, labels = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
        self.train, self.validation = random_split(data, [0.8, 0.2], torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.validation, batch_size=self.batch_size)


class Classifier(lightning.LightningModule):
    def __init__(self, hidden: int = 64, learning_rate: float = 0.003, dropout: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.network = nn.Sequential(
            nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        loss, accuracy = self.loss_and_accuracy(batch)
        self.log("train/loss", loss)
        self.log("train/accuracy", accuracy, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        loss, accuracy = self.loss_and_accuracy(batch)
        self.log_dict({"validation/loss": loss, "validation/accuracy": accuracy}, prog_bar=True)

    def loss_and_accuracy(
        self, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = batch
        logits = self(images)
        return nn.functional.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder of logs and checkpoints"
    )
    options = parser.parse_args()

    lightning.seed_everything(0)
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[LearningRateMonitor(), ModelCheckpoint(monitor="validation/loss", save_last=True)],
        log_every_n_steps=5,
        logger=TensorBoardLogger(options.output, name="lightning_digits"),
        max_epochs=options.epochs,
    )
    trainer.fit(Classifier(), datamodule=Digits())
    print(f"validation accuracy {trainer.callback_metrics['validation/accuracy']:.3f}")


if __name__ == "__main__":
    main()
