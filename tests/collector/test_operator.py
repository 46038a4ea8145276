"""The OpenTelemetry Operator's folder: the application keeps its own packages, and its points arrive."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.scripts import clean_environment, write_script
from tests.test_zero_code import otlp_server
from tools import operator_folder
from tracelet_otel.otlp.decoding import decode_series

ROOT = Path(__file__).resolve().parents[2]
MOUNT = "otel-auto-instrumentation-python"

TRAIN = """
import os, sys
import google.protobuf, requests, typing_extensions
for module in (google.protobuf, requests, typing_extensions):
    assert module.__file__.startswith(sys.prefix), module.__file__
assert "grpc" not in sys.modules
print(google.protobuf.__version__, requests.__version__, os.environ.get("FROM_THE_IMAGE"))
from tensorboardX import SummaryWriter
with SummaryWriter("logs") as writer:
    for step in range(100):
        writer.add_scalar("loss", step / 8, step)
"""
BARE = """
import tracelet_otel, google.protobuf.internal.api_implementation as implementation
assert implementation.Type() == "python"
for step in range(100):
    tracelet_otel.log_scalar("loss", step / 8, step)
tracelet_otel.log_scalar("loss", float("nan"), 100)
"""


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the init container copies into the pod."""
    place = tmp_path_factory.mktemp("operator")
    pip("wheel", "--no-deps", "--wheel-dir", str(place), ".")
    [wheel] = place.glob("*.whl")
    operator_folder.build(wheel, place / MOUNT)
    return place / MOUNT


@pytest.fixture(scope="module")
def applications(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("applications")


def application(folder: Path, *packages: str) -> Path:
    """An image's Python with these packages; made once."""
    venv = folder / (re.sub(r"\W+", "-", " ".join(packages)) or "bare")
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
        if packages:
            pip("--python", str(venv / "bin" / "python"), "install", *packages)
    return venv / "bin" / "python"


def run_in_pod(
    python: Path, folder: Path, work: Path, code: str, variables: Mapping[str, str], own_path: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs a script with what the Operator sets; source: its internal/instrumentation/python.go."""
    first = folder / "opentelemetry" / "instrumentation" / "auto_instrumentation"
    path = [str(first), own_path, str(folder)] if own_path else [str(first), str(folder)]
    environment = clean_environment(
        PYTHONPATH=":".join(path),
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_METRICS_EXPORTER="otlp",
        OTEL_LOGS_EXPORTER="otlp",
        XDG_STATE_HOME=str(work / "state"),
        **variables,
    )
    return subprocess.run(
        [str(python), str(write_script(work, code))],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_the_folder_is_pure_python_and_in_front_of_nothing(folder: Path) -> None:
    assert list(operator_folder.problems(folder)) == []
    assert {path.name for path in folder.iterdir()} == {"opentelemetry", operator_folder.PACKAGES}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: folder / "requests.py", "requests.py is in front of the application's packages"),
        (lambda folder: folder / operator_folder.PACKAGES / "a.so", "a.so is not pure Python"),
    ],
)
def test_the_check_notices(folder: Path, spoil: Callable[[Path], Path], says: str) -> None:
    path = spoil(folder)
    path.touch()
    try:
        assert any(problem.endswith(says) for problem in operator_folder.problems(folder))
    finally:
        path.unlink()


def test_the_pins_are_those_that_are_tested_with() -> None:
    def read(path: Path) -> list[Requirement]:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Requirement(line) for line in lines if line and not line.startswith("#")]

    pins = {
        requirement.name: str(requirement.specifier)
        for requirement in read(ROOT / "constraints.txt")
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.10"})
    }
    for requirement in read(operator_folder.REQUIREMENTS):
        assert str(requirement.specifier) == pins[requirement.name]


@pytest.mark.slow
@pytest.mark.parametrize("own_path", ["", "site"])
def test_the_application_keeps_its_own_and_points_arrive(
    folder: Path, applications: Path, tmp_path: Path, own_path: str
) -> None:
    python = application(
        applications, "protobuf==6.33.5", "requests==2.32.5", "typing_extensions==4.15.0", "tensorboardX"
    )
    # An image's own sitecustomize, which ours comes before.
    site = tmp_path / own_path if own_path else next(python.parents[1].glob("lib/python*/site-packages"))
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(f"import os; os.environ['FROM_THE_IMAGE'] = {site.name!r}")
    # Our command line would not run with it, but nobody runs that here.
    info = site / "typer-0.1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: typer\nVersion: 0.1\n")
    with otlp_server() as (endpoint, received):
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        own = str(site) if own_path else ""
        done = run_in_pod(python, folder, tmp_path, TRAIN, variables, own)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"6.33.5 2.32.5 {site.name}\n"
    assert re.search(r"otlp: captured 100 points.*, delivered all", done.stderr)
    points = [point for request in received for series in decode_series(request) for point in series.points]
    assert [(point.step, point.value) for point in points] == [(step, step / 8) for step in range(100)]


@pytest.mark.slow
def test_what_does_not_fit_stays_away(folder: Path, applications: Path, tmp_path: Path) -> None:
    python = application(
        applications, "protobuf==4.25.8", "requests==2.32.5", "typing_extensions==4.15.0", "tensorboardX"
    )
    with otlp_server() as (endpoint, received):
        done = run_in_pod(python, folder, tmp_path, TRAIN, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
    assert (done.returncode, done.stdout) == (0, "4.25.8 2.32.5 None\n")
    [line] = done.stderr.splitlines()
    assert line.startswith("tracelet-otel: nothing is recorded: this application has protobuf 4.25.8, ")
    assert received == []


@pytest.mark.slow
def test_an_application_without_anything(folder: Path, applications: Path, tmp_path: Path) -> None:
    python = application(applications)
    with otlp_server() as (endpoint, received):
        done = run_in_pod(python, folder, tmp_path, BARE, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
    assert done.returncode == 0, done.stderr
    assert "otlp: captured 101 points, delivered all" in done.stderr
    points = [point for request in received for series in decode_series(request) for point in series.points]
    assert [(p.step, p.value) for p in points][:100] == [(step, step / 8) for step in range(100)]
    assert len(points) == 101
