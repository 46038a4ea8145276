"""Trains a small network on scikit-learn's handwritten digits and logs with a plain SummaryWriter.

    python examples/tensorboard_digits.py

It knows nothing of tracelet-otel. Run it under `opentelemetry-instrument` and everything that TensorBoard
gets goes to your experiment tracker too:

    opentelemetry-instrument --metrics_exporter mlflow python examples/tensorboard_digits.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

matplotlib.use("agg")


def make_model(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(2 * channels * 16, 10),
    )


def load_data() -> tuple[TensorDataset, TensorDataset]:
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    data = TensorDataset(images, torch.tensor(labels))
    training, validation = train_test_split(range(len(data)), test_size=0.2, random_state=0)
    return TensorDataset(*data[training]), TensorDataset(*data[validation])


def confusion(predicted: torch.Tensor, labels: torch.Tensor) -> Figure:
    counts = torch.zeros(10, 10, dtype=torch.int64)
    counts.index_put_((labels, predicted), torch.tensor(1), accumulate=True)
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    axes.set(xlabel="predicted", ylabel="digit", xticks=range(10), yticks=range(10))
    for row, column in counts.nonzero().tolist():
        count = int(counts[row, column])
        axes.text(column, row, str(count), ha="center", va="center", color="white" if count > 15 else "black")
    return figure


def evaluate(model: nn.Module, data: TensorDataset, writer: SummaryWriter, step: int) -> float:
    images, labels = data.tensors
    model.eval()
    with torch.no_grad():
        outputs = model(images)
    predicted = outputs.argmax(1)
    accuracy = (predicted == labels).float().mean().item()
    writer.add_scalar("validation/loss", nn.functional.cross_entropy(outputs, labels), step)
    writer.add_scalar("validation/accuracy", accuracy, step)
    for name, weights in model.named_parameters():
        if name.endswith("weight"):
            writer.add_histogram(f"weights/{name}", weights, step)
    writer.add_figure("confusion", confusion(predicted, labels), step)
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=0.003)
    parser.add_argument("--output", type=Path, default=Path("runs/tensorboard_digits"), help="log folder")
    options = parser.parse_args()

    torch.manual_seed(0)
    training, validation = load_data()
    batches = DataLoader(training, options.batch_size, shuffle=True)
    model = make_model(options.channels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3 * options.learning_rate, total_steps=options.epochs * len(batches)
    )

    writer = SummaryWriter(options.output)
    writer.add_text("model", f"```\n{model}\n```")
    writer.add_image("digits", torch.cat(list(training.tensors[0][:16]), dim=2))
    accuracies = [evaluate(model, validation, writer, 0)]
    step = 0
    for _ in range(options.epochs):
        model.train()
        for inputs, targets in batches:
            outputs = model(inputs)
            loss = nn.functional.cross_entropy(outputs, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            accuracy = (outputs.argmax(1) == targets).float().mean()
            writer.add_scalar("train/loss", loss, step)
            writer.add_scalar("train/accuracy", accuracy, step)
            writer.add_scalar("learning_rate", schedule.get_last_lr()[0], step)
            schedule.step()
            step += 1
        accuracies.append(evaluate(model, validation, writer, step))

    params = {name: value for name, value in vars(options).items() if name != "output"}
    writer.add_hparams(params, {"validation/best_accuracy": max(accuracies)})
    writer.close()
    print(f"validation accuracy {accuracies[-1]:.3f}, best {max(accuracies):.3f}")


if __name__ == "__main__":
    main()
