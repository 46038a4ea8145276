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

import logging
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _bench
import psutil
from _gateway_parts import EXEMPLARS, TAGS, measure_decode, measure_parts, request, requests, sender

from tests.gateway.process import Client, Gateway
from tests.gateway.support import Job

DECODE_TARGET = 800_000


def gateway_for(backend: str, folder: Path) -> Gateway:
    if backend == "file":
        return Gateway(folder, "--backends", "file", variables={"TRACELET_SHUTDOWN_TIMEOUT": "60"})
    option = f"mlflow.tracking_uri={_bench.make_mlflow(folder / 'mlflow.db')}"
    return Gateway(folder, "--backends", "mlflow", "--option", option)


def delivered(backend: str) -> str:
    """The gateway's metric."""
    return f'tracelet_gateway_points_delivered_total{{otel_component_name="{backend}"}}'


def measure_end_to_end(backend: str, points: int) -> tuple[float, float, float]:
    """Points a second, CPU microseconds a point, and the share of the time in which the process computed."""
    with _bench.new_folder() as folder, gateway_for(backend, folder) as gateway:
        data = requests(uuid.uuid4().hex, points)
        count = len(data) * EXEMPLARS
        with Client("grpc", gateway.grpc) as client:
            client.accept(Job("warm-up").steps("x", range(TAGS)))
        gateway.wait_for(delivered(backend), TAGS)
        go = sender(gateway.grpc, data)
        process = psutil.Process(gateway.process.pid)
        before, started = process.cpu_times(), time.perf_counter()
        go()
        while gateway.measured()[delivered(backend)] < TAGS + count:
            time.sleep(0.05)
        seconds, after = time.perf_counter() - started, process.cpu_times()
        used = after.user + after.system - before.user - before.system
        gateway.stop(120)
    return count / seconds, used / count * 1e6, used / seconds


def measure_runs(runs: int, rounds: int) -> list[float]:
    """MiB of the gateway's process after each round, in which every run sends once."""
    sizes: list[float] = []
    with _bench.new_folder() as folder, gateway_for("mlflow", folder) as gateway:
        process = psutil.Process(gateway.process.pid)
        ids = [uuid.uuid4().hex for _ in range(runs)]
        with Client("grpc", gateway.grpc) as client:
            for round_ in range(rounds):
                for run_id in ids:
                    assert client.send("metrics", request(run_id, round_ * 10, 10 * TAGS)).code == "OK"
                gateway.wait_for(delivered("mlflow"), runs * (round_ + 1) * 10 * TAGS, timeout=600)
                sizes.append(process.memory_info().rss / 2**20)
        assert gateway.measured()['tracelet_gateway_runs{state="open"}'] == runs
        gateway.stop(120)
    return sizes


def show(name: str, values: Sequence[float], unit: str, form: str) -> dict[str, float]:
    """Prints a line of the table; its figures."""
    figure = _bench.Figure.of(values)
    median, low, high = (format(value, form) for value in figure)
    print(f"{name:<40}{median:>12} {unit}  ({low} to {high})", flush=True)
    return figure._asdict()


def main() -> None:
    parser = _bench.make_parser(__doc__, points=40_000, repeats=5, runs=500)
    parser.add_argument("--rounds", type=int, default=9, help="in which each of the runs sends once")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    figures: dict[str, Any] = {}
    missed: list[str] = []
    print(f"{options.points:,} points, {options.repeats} repeats: median (lowest to highest)", flush=True)
    for name, rates in measure_decode(options.repeats).items():
        decode = figures[f"decode, {name}"] = show(f"decode, {name}", rates, "points/s", ",.0f")
        if name.startswith("1,000") and decode["median"] < DECODE_TARGET:
            missed.append(f"decode: {decode['median']:,.0f} points/s, {DECODE_TARGET:,} wanted")
    for backend in ("mlflow", "file"):
        rates, costs, shares = zip(
            *(measure_end_to_end(backend, options.points) for _ in range(options.repeats)), strict=True
        )
        parts = [measure_parts(backend, options.points) for _ in range(options.repeats)]
        found: dict[str, Any] = {
            "points_per_s": show(f"{backend}, end to end", rates, "points/s", ",.0f"),
            "cpu_us": show("  CPU of the gateway", costs, "µs/point", ".2f"),
            "cores": _bench.Figure.of(shares)._asdict(),
        }
        print(f"{'  of one core, while it works':<40}{found['cores']['median']:>12.0%}")
        shown = {
            part: show(f"    {part}", [each[part] for each in parts], "µs/point", ".2f") for part in parts[0]
        }
        bound = max(shown, key=lambda part: shown[part]["median"])
        print(f"  the bound is: {bound}", flush=True)
        figures[backend] = {**found, "parts_us": shown, "bound": bound}
    sizes = measure_runs(options.runs, options.rounds)
    third = max(1, len(sizes) // 3)
    growth = max(sizes[-third:]) / max(sizes[third : 2 * third] or sizes[:1]) - 1
    print(f"{options.runs} runs at once, MiB by round".ljust(40) + " ".join(f"{size:.0f}" for size in sizes))
    figures["runs"] = {"runs": options.runs, "rss_mib": sizes, "growth": growth}
    if growth > 0.1:
        missed.append(f"memory: {growth:.0%} more in the last third than in the second")
    _bench.write_json(options, figures)
    for line in missed:
        print(f"missed: {line}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
