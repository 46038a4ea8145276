"""One run to Weights & Biases.

Online with WANDB_API_KEY, or into a folder with WANDB_MODE=offline, for "wandb sync" later.
"""

from __future__ import annotations

from train import train

import tracelet_otel

tracelet_otel.configure(backends=["wandb"], project="examples", run_name="parabola")
print("loss", train("logs"))
