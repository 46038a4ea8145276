"""Several runs in one process: a sweep over learning rates, each a run of its own in the trackers."""

from __future__ import annotations

from train import train

import tracelet_otel

tracelet_otel.configure(project="examples", experiment="sweep")  # into OTEL_METRICS_EXPORTER, else MLflow
for learning_rate in (0.01, 0.1, 0.5):
    with tracelet_otel.run(name=f"learning-rate-{learning_rate}"):
        tracelet_otel.log_params({"learning_rate": learning_rate})
        print(learning_rate, "loss", train(f"logs/{learning_rate}", learning_rate=learning_rate))
