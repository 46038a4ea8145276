"""Training script, a real collector, gateway, trackers: what arrives is what the direct way gives, exactly.

Every batch is sent twice, and the gateway is killed in the middle and started again while the script goes on.

Of rotel 0.0.1a15, the collector that is always there: exemplars pass it byte for byte; it tries again through
an outage, with many requests at once and so in another order. But it holds everything in memory, and drops a
request whose connection breaks before the answer, so here the gateway is killed between two requests; without
a collector, and with OpenTelemetry's own where ``OTELCOL`` names one, it is killed at once. And rotel sends
with gzip, whatever ``--otlp-exporter-compression`` says.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.collector import chain
from tests.support import mlflow_content as mlflow
from tests.support.fifth_subject import FifthSubject
from tests.support.scripts import clean_environment, script_command, write_script

RUN_ID = "the-run-of-both-ways"
TAGS = 4
STEPS = 1500
SCRIPT = f"""
import math, random
import tracelet_otel
from tracelet_otel import log_artifact, log_params, log_scalar, log_text

draw = random.Random(7)
values = [math.nan, math.inf, -math.inf]


def log(steps):
    for step in steps:
        for tag in range({TAGS}):
            value = values[step % 3] if (step + tag) % 97 == 0 else draw.gauss(0, 10)
            log_scalar(f"tag/{{tag}}", value, step, wall_time=1.7e9 + step + tag / 8)


log_params({{"lr": 0.1, "layers": [1, 2]}})
log_text("notes", "first", 0)
log(range({STEPS // 2}))
tracelet_otel.flush()
print("half", flush=True)
input()
log_text("notes", "second", 1)
with open("weights.bin", "wb") as file:
    file.write(draw.randbytes(1_500_000))
log_artifact("weights.bin")
log(range({STEPS // 2}, {STEPS}))
tracelet_otel.flush(1)
print("all", flush=True)
input()
"""

RECEIVED = "tracelet_gateway_points_received_total"
DELIVERED = "tracelet_gateway_points_delivered_total"
ACTIVE = "tracelet_gateway_requests_active"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    return chain.install_fifth_tracker(tmp_path_factory.mktemp("site") / "packages")


class Training:
    """The script, run to its end in steps."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        folder.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            script_command(write_script(folder, SCRIPT)),
            cwd=folder,
            env=clean_environment(
                TRACELET_RUN_ID=RUN_ID,
                OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="system_metrics,gpu",
                XDG_STATE_HOME=str(folder / "state"),
                **variables,
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, word: str) -> None:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if line != f"{word}\n":
            self._process.kill()
            raise AssertionError(f"{line!r} instead of {word}: {self._process.communicate()[1]}")

    def go_on(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> str:
        _, errors = self._process.communicate("\n", timeout=60)
        assert self._process.returncode == 0, errors
        return errors


def content(folder: Path) -> dict[str, object]:
    """What both trackers have: each point as often as it is there, whatever the order."""
    database = folder / "mlflow.db"
    [run] = mlflow.runs(database)
    points = mlflow.points(database)
    fifth = FifthSubject(folder)
    files = {name: data for name, data in mlflow.artifacts(run).items() if "environment" not in name}
    # A run that is closed and opened again has several, each with its part.
    companions = [files.pop(name) for name in list(files) if name.startswith("tracelet/companion")]
    return {
        "mlflow status": run.status,
        "mlflow points": Counter(
            (tag, repr(point)) for tag in points if tag.startswith("tag/") for point in points[tag]
        ),
        "mlflow params": mlflow.params(database),
        "mlflow files": files,
        "mlflow companion": Counter(line for data in companions for line in data.splitlines()),
        "fifth status": fifth.status(RUN_ID),
        "fifth points": Counter(
            (tag, repr(p)) for tag, points in fifth.points(RUN_ID).items() for p in points
        ),
        "fifth params": fifth.params(RUN_ID),
        "fifth media": Counter((m.kind, m.tag, m.step, m.content) for m in fifth.media(RUN_ID)),
        "fifth files": {
            name: data
            for name, data in fifth.files(RUN_ID).items()
            if not name.endswith(".json") and not name.startswith("environment")  # of which process, and when
        },
    }


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, site: str) -> dict[str, object]:
    """The same script with the trackers in its own process."""
    folder = tmp_path_factory.mktemp("direct")
    shutil.copy(empty_database, folder / "mlflow.db")
    training = Training(folder, {"OTEL_METRICS_EXPORTER": "mlflow,json_folder", "PYTHONPATH": site})
    training.wait_for("half")
    training.go_on()
    training.wait_for("all")
    training.end()
    return content(folder)


def is_quiet(gateway: chain.Gateway) -> bool:
    """Whether all of the first half is there, twice, and no request under way."""
    before = gateway.metrics()
    time.sleep(0.5)
    after = gateway.metrics()
    return after[RECEIVED] == before[RECEIVED] >= TAGS * STEPS and not after[ACTIVE]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("collector", "sent", "compression", "forwarded"),
    [
        ("rotel", "grpc", "gzip", "grpc"),
        ("rotel", "grpc", "none", "http/protobuf"),
        ("rotel", "http/protobuf", "gzip", "http/protobuf"),
        ("rotel", "http/protobuf", "none", "grpc"),
        ("nothing", "grpc", "none", "grpc"),
        ("nothing", "http/protobuf", "gzip", "http/protobuf"),
        ("otelcol", "grpc", "gzip", "grpc"),
        ("otelcol", "http/protobuf", "none", "grpc"),
    ],
)
def test_the_trackers_have_what_the_direct_way_has(
    direct: dict[str, object],
    empty_database: Path,
    site: str,
    tmp_path: Path,
    collector: str,
    sent: chain.Protocol,
    compression: str,
    forwarded: chain.Protocol,
) -> None:
    gateway = chain.Gateway(
        tmp_path / "gateway", "mlflow,json_folder", PYTHONPATH=site, MLFLOW_TRACKING_URI="sqlite:///mlflow.db"
    )
    shutil.copy(empty_database, gateway.folder / "mlflow.db")
    try:
        gateway.start()
        with (
            chain.COLLECTORS[collector](tmp_path, gateway, forwarded) as ports,
            chain.doubler(ports) as doubled,
        ):
            port = doubled.grpc if sent == "grpc" else doubled.http
            training = Training(
                tmp_path / "training",
                {
                    "PYTHONPATH": site,
                    "OTEL_METRICS_EXPORTER": "otlp",
                    "OTEL_EXPORTER_OTLP_PROTOCOL": sent,
                    "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
                    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
                },
            )
            training.wait_for("half")
            if collector == "rotel":
                chain.until(lambda: is_quiet(gateway), "the gateway has all of the first half")
            else:
                chain.until(lambda: gateway.metrics()[RECEIVED] > 0, "the gateway has points")
            gateway.kill()
            training.go_on()
            training.wait_for("all")
            gateway.start()
            said = training.end()
            assert "delivered all" in said
            expected = direct["mlflow points"]
            assert isinstance(expected, Counter)
            database = gateway.folder / "mlflow.db"

            def is_complete() -> bool:
                stored = mlflow.points(database)
                count = sum(len(points) for tag, points in stored.items() if tag.startswith("tag/"))
                status = [run.status for run in mlflow.runs(database)]
                return status == [direct["mlflow status"]] and count >= expected.total()

            chain.until(is_complete, "the run is finished in MLflow")
            counted = gateway.metrics()
    finally:
        gateway.stop()
    got = content(gateway.folder)
    # Doubled in each half; the second gateway does not give again what the first one delivered.
    assert counted[RECEIVED] >= TAGS * STEPS
    assert counted[DELIVERED] <= 2 * TAGS * STEPS
    assert got.keys() == direct.keys()
    for what, value in direct.items():
        assert got[what] == value, what
    assert expected.total() == TAGS * STEPS
