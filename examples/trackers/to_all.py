"""One run to all four trackers at once, each with its own part of the data."""

from __future__ import annotations

from train import train

import tracelet_otel

tracelet_otel.configure(
    backends={
        "mlflow": {},
        "wandb": {"exclude": ["gradient"]},
        "aim": {"kinds": ["scalar", "text", "histogram"]},
        "clearml": {"include": ["loss/*"]},
    },
    project="examples",
    run_name="parabola",
)
print("loss", train("logs"))
