from __future__ import annotations

import math
from pathlib import Path

from tests.gateway.support import Job, Station


def test_smoke(tmp_path: Path) -> None:
    station = Station(tmp_path)
    job = Job("run-a", name="n", project="p", experiment="e")
    job.log("loss", 0, math.nan)
    job.log("loss", 1, 1.5)
    station.accept(job.begin(), job.steps("loss", range(2, 5000)), job.end("finished"))
    station.flush()
    assert station.points("run-a") == job.keys
    assert station.subject().status("run-a") == "finished"
    station.close()
