"""Measures a gateway: what a point costs, how many points it takes a second, and if its memory stays flat.

    python benchmarks/gateway.py [--points 40000] [--repeats 5] [--runs 500] [--json results.json]

Each figure is the median of the repeats, with the lowest and the highest. Exits with 1 where a target is
missed.

decode          from OTLP bytes to the records that a tracker gets, 1,000 exemplars a request, in one process;
                target: at least 800,000 points/s of CPU time
end to end      a gateway in a process of its own gets every point over gRPC, in requests of 4,000 exemplars
                of 10 tags, from four senders, and delivers to MLflow (sqlite) or to backend `file`; the time
                from the first request to the last delivered point. "CPU" is that of the gateway's process
parts           the CPU time of the same work, each part measured alone on the same requests in this process:
                receive (gRPC, up to the answer), check (parse, validate, find what is new), durable (write
                and sync the line of the spool), decode, write (the tracker's calls, all threads)
runs            many runs at once into MLflow, round by round; the gateway's memory after each round. It is
                flat if the last third has at most 10 % more than the second third

The part that costs most is the bound: Python runs one thread at a time, so the parts work in turns and not
side by side, except while they wait for the disk or the database.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from _gateway_load import EXEMPLARS, TAGS, Sending, request, requests  # noqa: E402
from _gateway_parts import measure_decode, measure_parts  # noqa: E402
from _processes import empty_mlflow  # noqa: E402
from _rows import Figure, write_json  # noqa: E402

from tests.gateway.process import Client, Gateway  # noqa: E402
from tests.gateway.support import Job  # noqa: E402

DECODE_TARGET = 800_000


# -- end to end -------------------------------------------------------------------------------------------


def gateway_for(backend: str, folder: Path, database: Path) -> Gateway:
    if backend == "file":
        return Gateway(folder, "--backends", "file", variables={"TRACELET_SHUTDOWN_TIMEOUT": "60"})
    shutil.copy(database, folder / "mlflow.db")
    option = f"mlflow.tracking_uri=sqlite:///{folder}/mlflow.db"
    return Gateway(folder, "--backends", "mlflow", "--option", option)


def measure_end_to_end(
    backend: str, points: int, repeats: int, database: Path
) -> tuple[Figure, Figure, Figure]:
    """Points a second, CPU microseconds a point, and the share of the time in which the process computed."""
    rates: list[float] = []
    costs: list[float] = []
    shares: list[float] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name, gateway_for(backend, Path(name), database) as gateway:
            run_id = uuid.uuid4().hex
            data = requests(run_id, points)
            count = len(data) * EXEMPLARS
            delivered = f'tracelet_gateway_points_delivered_total{{otel_component_name="{backend}"}}'
            with Client("grpc", gateway.grpc) as client:
                client.accept(Job("warm-up").steps("x", range(TAGS)))
            gateway.wait_for(delivered, TAGS)
            sending = Sending(gateway.grpc, data)
            process = psutil.Process(gateway.process.pid)
            before, started = process.cpu_times(), time.perf_counter()
            sending.go()
            while (found := gateway.measured()[delivered]) < TAGS + count:
                assert found >= 0
                time.sleep(0.05)
            seconds, after = time.perf_counter() - started, process.cpu_times()
            used = after.user + after.system - before.user - before.system
            rates.append(count / seconds)
            costs.append(used / count * 1e6)
            shares.append(used / seconds)
            gateway.stop(120)
    return Figure.of(rates), Figure.of(costs), Figure.of(shares)


# -- runs -------------------------------------------------------------------------------------------------


def measure_runs(runs: int, rounds: int, database: Path) -> list[float]:
    """MiB of the gateway's process after each round, in which every run sends once."""
    sizes: list[float] = []
    with tempfile.TemporaryDirectory() as name, gateway_for("mlflow", Path(name), database) as gateway:
        process = psutil.Process(gateway.process.pid)
        ids = [uuid.uuid4().hex for _ in range(runs)]
        delivered = 'tracelet_gateway_points_delivered_total{otel_component_name="mlflow"}'
        with Client("grpc", gateway.grpc) as client:
            for round_ in range(rounds):
                for run_id in ids:
                    assert client.send("metrics", request(run_id, round_ * 10, 10 * TAGS)).code == "OK"
                gateway.wait_for(delivered, runs * (round_ + 1) * 10 * TAGS, timeout=600)
                sizes.append(process.memory_info().rss / 2**20)
        assert gateway.measured()['tracelet_gateway_runs{state="open"}'] == runs
        gateway.stop(120)
    return sizes


# -- table ------------------------------------------------------------------------------------------------


def show(name: str, value: Figure, unit: str, form: str) -> None:
    """A line of the table."""
    low, high = format(value.low, form), format(value.high, form)
    print(f"{name:<40}{format(value.median, form):>12} {unit}  ({low} to {high})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9, help="in which each of the runs sends once")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    figures: dict[str, Any] = {}
    missed: list[str] = []
    print(f"{options.points:,} points, {options.repeats} repeats: median (lowest to highest)", flush=True)
    for name, rate in measure_decode(options.repeats).items():
        figures[f"decode, {name}"] = rate._asdict()
        show(f"decode, {name}", rate, "points/s", ",.0f")
        if name.startswith("1,000") and rate.median < DECODE_TARGET:
            missed.append(f"decode: {rate.median:,.0f} points/s, {DECODE_TARGET:,} wanted")
    with tempfile.TemporaryDirectory() as folder:
        database = empty_mlflow(Path(folder))
        for backend in ("mlflow", "file"):
            rate, cost, share = measure_end_to_end(backend, options.points, options.repeats, database)
            parts = measure_parts(backend, options.points, options.repeats, database)
            bound = max(parts, key=lambda part: parts[part].median)
            show(f"{backend}, end to end", rate, "points/s", ",.0f")
            show("  CPU of the gateway", cost, "µs/point", ".2f")
            print(f"{'  of one core, while it works':<40}{share.median:>12.0%}")
            for part, value in parts.items():
                show(f"    {part}", value, "µs/point", ".2f")
            print(f"  the bound is: {bound}", flush=True)
            figures[backend] = {
                "points_per_s": rate._asdict(),
                "cpu_us": cost._asdict(),
                "cores": share._asdict(),
                "parts_us": {part: value._asdict() for part, value in parts.items()},
                "bound": bound,
            }
        sizes = measure_runs(options.runs, options.rounds, database)
    third = max(1, len(sizes) // 3)
    growth = max(sizes[-third:]) / max(sizes[third : 2 * third] or sizes[:1]) - 1
    print(f"{options.runs} runs at once, MiB by round".ljust(40) + " ".join(f"{size:.0f}" for size in sizes))
    figures["runs"] = {"runs": options.runs, "rss_mib": sizes, "growth": growth}
    if growth > 0.1:
        missed.append(f"memory: {growth:.0%} more in the last third than in the second")
    write_json(options.json, figures)
    for line in missed:
        print(f"missed: {line}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
