"""One run to MLflow.

A local SQLite file, or the server that MLFLOW_TRACKING_URI names.
Look at it with: mlflow ui --backend-store-uri sqlite:///mlflow.db
"""

from __future__ import annotations

from train import train

import tracelet_otel

tracelet_otel.configure(backends=["mlflow"], project="examples", run_name="parabola")
print("loss", train("logs"))
