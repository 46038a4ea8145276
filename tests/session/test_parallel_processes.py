"""Processes of one run that log one tag at the same time lose nothing, in any tracker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scripts import run_script
from tests.support.trackers import TRACKERS, backends, subjects_in

POINTS = 3000
"""More than the microseconds between the first points of the two processes."""

SCRIPT = """
import multiprocessing, sys
import tracelet_otel

def work(number, barrier):
    tracelet_otel.configure(backends={backends!r}, run_id="parallel", shutdown_timeout=60)
    tracelet_otel.log_scalar(f"ready{{number}}", 0.0, 0)
    tracelet_otel.flush(60)
    barrier.wait()
    for step in range(number * {points}, (number + 1) * {points}):
        tracelet_otel.log_scalar("loss", float(step), step)
    assert tracelet_otel.flush(60)
    barrier.wait()
    tracelet_otel.shutdown()

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=work, args=(number, barrier)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(max(worker.exitcode for worker in workers))
"""


@pytest.mark.slow
def test_two_processes_with_one_tag(tmp_path: Path, database: Path) -> None:
    with subjects_in(tmp_path, database) as subjects:
        script = SCRIPT.format(backends=backends(tmp_path), points=POINTS)
        done = run_script(tmp_path, script, zero_code=False, timeout=170)
        assert done.returncode == 0, done.stderr
        for name in TRACKERS:
            stored = sorted(subjects[name].points("parallel")["loss"])
            assert [(one.step, one.value) for one in stored] == [
                (step, float(step)) for step in range(2 * POINTS)
            ], name
