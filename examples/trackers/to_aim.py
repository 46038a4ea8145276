"""One run to AIM.

A local repository in .aim. Look at it with: aim up
"""

from __future__ import annotations

from train import train

import tracelet_otel

tracelet_otel.configure(backends=["aim"], project="examples", run_name="parabola")
print("loss", train("logs"))
