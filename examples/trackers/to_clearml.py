"""One run to ClearML.

The server that clearml.conf or the variables CLEARML_API_HOST and others name.
"""

from __future__ import annotations

from train import train

import tracelet_otel

tracelet_otel.configure(backends=["clearml"], project="examples", run_name="parabola")
print("loss", train("logs"))
