"""Processes of one run: one name, and nothing is lost of a tag that they log at the same time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.gateway.process import Gateway
from tests.support.scripts import run_script
from tests.support.trackers import TRACKERS, backends, scalars, subjects_in

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


EVERY = [(step, float(step)) for step in range(2 * POINTS)]


def run_both(folder: Path, backends: object) -> None:
    script = SCRIPT.format(backends=backends, points=POINTS)
    done = run_script(folder, script, zero_code=False, timeout=170)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_with_one_tag(tmp_path: Path, database: Path) -> None:
    with subjects_in(tmp_path, database) as subjects:
        run_both(tmp_path, backends(tmp_path))
        for name in TRACKERS:
            assert scalars(subjects[name], "parallel")["loss"] == EVERY, name


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_two_processes_with_one_tag_by_a_gateway(tmp_path: Path, database: Path, protocol: str) -> None:
    options = [
        argument
        for name, given in backends(tmp_path).items()
        for key, value in given.items()
        for argument in ("--option", f"{name}.{key}={value}")
    ]
    with (
        subjects_in(tmp_path, database) as subjects,
        Gateway(tmp_path, "--backends", ",".join(TRACKERS), *options) as gateway,
    ):
        address = gateway.grpc if protocol == "grpc" else gateway.http
        run_both(tmp_path, {"otlp": {"endpoint": f"http://{address}", "protocol": protocol}})
        for name in TRACKERS:
            delivered = "tracelet_gateway_points_delivered_total"
            gateway.wait_for(f'{delivered}{{otel_component_name="{name}"}}', 2 * POINTS + 2)
        assert gateway.stop() == 0
        for name in TRACKERS:
            assert scalars(subjects[name], "parallel")["loss"] == EVERY, name


def test_a_child_shows_the_name_of_the_run(tmp_path: Path) -> None:
    script = """
    import subprocess, sys
    import tracelet_otel
    tracelet_otel.configure("file")
    tracelet_otel.log_scalar("loss", 0.5, 0)
    if len(sys.argv) == 1:
        subprocess.run([sys.executable, __file__, "child"], check=True)
        with tracelet_otel.run(name="of a block"):
            tracelet_otel.log_scalar("loss", 0.5, 0)
            subprocess.run([sys.executable, __file__, "child"], check=True)
    """
    done = run_script(tmp_path, script, zero_code=False)
    assert done.returncode == 0, done.stderr
    first, second, third = re.findall(r"run (.+) -> file", done.stderr)
    assert re.fullmatch(r"\w+-\d{8}-\d{6}-[0-9a-f]{4}", first)
    assert (second, third) == (first, "of a block")


def test_runs_that_begin_in_one_second_have_different_names(tmp_path: Path) -> None:
    script = """
    import tracelet_otel
    tracelet_otel.configure("file")
    for _ in range(4):
        with tracelet_otel.run() as run:
            tracelet_otel.log_scalar("loss", 0.5, 0)
        print(run.name)
    """
    done = run_script(tmp_path, script, zero_code=False)
    assert len(set(done.stdout.split())) == 4
