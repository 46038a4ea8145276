"""A training script that knows nothing of trackers: what the examples beside it run."""

from __future__ import annotations

import math
import random

from tensorboardX import SummaryWriter


def train(log_dir: str, *, learning_rate: float = 0.1, steps: int = 100) -> float:
    """Follows a noisy parabola down to its minimum; returns the last loss."""
    noise = random.Random(0)
    position = 3.0
    loss = math.inf
    with SummaryWriter(log_dir) as writer:
        for step in range(steps):
            gradient = 2 * position + noise.gauss(0, 0.3)
            position -= learning_rate * gradient
            loss = position * position
            writer.add_scalar("loss/train", loss, step)
            writer.add_scalar("gradient", gradient, step)
        writer.add_text("notes", f"learning rate {learning_rate}", steps)
    return loss
