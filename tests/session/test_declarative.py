"""``OTEL_CONFIG_FILE``: the same points from a file, beside what OpenTelemetry's own SDK makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.support import event_files
from tests.support import mlflow_content as mlflow
from tests.support.scripts import run_script
from tests.test_zero_code import otlp_server
from tracelet_otel import semconv
from tracelet_otel.otlp.decoding import decode_series
from tracelet_otel.otlp.json import parse_line

PAGE = Path(__file__).resolve().parents[2] / "docs" / "declarative.md"
LOG = """
import tracelet_otel
for step in range(100):
    tracelet_otel.log_scalar("loss", step / 7, step)
"""
COUNT = """
from opentelemetry import metrics
metrics.get_meter("user").create_counter("batches").add(3)
"""
CONSOLE = """
meter_provider:
  readers:
    - periodic: {exporter: {console: {}}}
"""
LOGGED = [(step, step / 7) for step in range(100)]


def run_with(folder: Path, configuration: str, code: str, **variables: str) -> CompletedProcess[str]:
    """Runs a script with this configuration file."""
    (folder / "otel.yaml").write_text('file_format: "1.0"\n' + configuration, encoding="utf-8")
    return run_script(folder, code, variables={"OTEL_CONFIG_FILE": "otel.yaml", **variables})


def stored(database: Path, tag: str = "loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in mlflow.points(database)[tag]]


def spooled(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of a spool, by tag."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            request = parse_line(line)
            if isinstance(request, ExportMetricsServiceRequest):
                for series in decode_series(request):
                    found.setdefault(series.tag, []).extend((p.step, p.value) for p in series.points)
    return found


def printed(done: CompletedProcess[str]) -> list[dict[str, Any]]:
    """What the console exporter printed, one collection after the other."""
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    text = done.stdout.lstrip()
    while text:
        data, end = decoder.raw_decode(text)
        found.append(data)
        text = text[end:].lstrip()
    return found


def shown(data: dict[str, Any], name: str) -> list[Any]:
    """The values of one metric in what the console exporter printed last."""
    return [
        point["value"]
        for resource in data["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
        if metric["name"] == name
        for point in metric["data"]["data_points"]
    ]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_the_documented_file_delivers_every_point(tmp_path: Path, database: Path) -> None:
    (configuration,), (code,) = blocks("yaml"), blocks("python")
    (tmp_path / "otel.yaml").write_text(configuration, encoding="utf-8")
    done = run_script(tmp_path, code, variables={"OTEL_CONFIG_FILE": "otel.yaml"})
    assert done.returncode == 0, done.stderr
    said = re.findall(r"^tracelet-otel: run .*$", blocks("console")[0], re.M)
    assert [line for line in done.stderr.splitlines() if line.startswith("tracelet-otel: run ")] == said
    written = event_files.points(tmp_path / "logs")["train/loss"]
    assert len(written) == 1000
    assert [(p.step, pytest.approx(p.value, rel=1e-7), round(p.wall_time * 1000)) for p in written] == [
        (p.step, p.value, pytest.approx(p.timestamp_ms, abs=1)) for p in mlflow.points(database)["train/loss"]
    ]
    assert spooled(tmp_path / "points")["train/loss"] == stored(database, "train/loss")
    (run,) = mlflow.runs(database)
    assert (run.name, run.experiment, run.status) == ("baseline", "digits", "FINISHED")
    assert mlflow.tags(database)["team"] == "vision"
    (value,) = shown(printed(done)[-1], semconv.SCALAR)
    assert value == written[-1].value
    attributes = printed(done)[-1]["resource_metrics"][0]["resource"]["attributes"]
    assert attributes["service.name"] == "digits"


def test_trackers_get_other_instruments_of_a_provider_with_other_readers_once(
    tmp_path: Path, database: Path
) -> None:
    configuration = """
resource: {attributes: [{name: service.name, value: digits}]}
meter_provider:
  exemplar_filter: always_on
  readers:
    - periodic: {exporter: {mlflow: }}
    - periodic: {exporter: {console: {}}}
"""
    done = run_with(tmp_path, configuration, LOG + COUNT)
    assert done.returncode == 0, done.stderr
    assert stored(database) == LOGGED
    assert mlflow.points(database)["batches"][-1].value == 3
    assert set(mlflow.points(database)) == {"loss", "batches"}
    last = printed(done)[-1]
    assert (shown(last, "batches"), shown(last, semconv.SCALAR)) == ([3], [99 / 7])


def test_otlp_with_the_whole_history_beside_a_tracker_and_opentelemetrys_own(
    tmp_path: Path, database: Path
) -> None:
    configuration = """
meter_provider:
  readers:
    - periodic: {exporter: {mlflow: {exclude: ["debug"]}}}
    - periodic: {exporter: {otlp: {endpoint: "${ENDPOINT}", protocol: http/protobuf}}}
    - periodic: {exporter: {otlp_http: {endpoint: "${OWN}/v1/metrics"}}}
"""
    code = LOG + "tracelet_otel.log_scalar('debug', 1.5, 3)"
    with otlp_server() as (endpoint, received), otlp_server() as (own, received_by_own):
        done = run_with(tmp_path, configuration, code, ENDPOINT=endpoint, OWN=own)
    assert done.returncode == 0, done.stderr
    assert stored(database) == LOGGED
    assert set(mlflow.points(database)) == {"loss"}
    by_tag: dict[str, list[tuple[int, float]]] = {}
    for request in received:
        for series in decode_series(request):
            by_tag.setdefault(series.tag, []).extend((p.step, p.value) for p in series.points)
    assert by_tag == {"loss": LOGGED, "debug": [(3, 1.5)]}
    last = {
        next(a.value.string_value for a in point.attributes if a.key == semconv.TAG): point.as_double
        for resource in received_by_own[-1].resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == semconv.SCALAR
        for point in metric.gauge.data_points
    }
    assert last == {"loss": 99 / 7, "debug": 1.5}


def test_a_file_with_other_exporters_alone_is_opentelemetrys(tmp_path: Path) -> None:
    done = run_with(tmp_path, CONSOLE, LOG + COUNT)
    assert (done.returncode, done.stderr) == (0, "")
    last = printed(done)[-1]
    assert (shown(last, "batches"), shown(last, semconv.SCALAR)) == ([3], [99 / 7])
    assert {path.name for path in tmp_path.iterdir()} == {"otel.yaml", "train.py"}


def test_a_tracker_may_be_named_by_a_log_processor(tmp_path: Path, database: Path) -> None:
    configuration = """
logger_provider:
  processors:
    - batch: {exporter: {mlflow: {}}}
    - simple: {exporter: {console: {}}}
"""
    code = LOG + (
        "tracelet_otel.log_text('note', 'kept')\n"
        "from opentelemetry._logs import LogRecord, get_logger\n"
        "get_logger('user').emit(LogRecord(body='theirs'))\n"
    )
    done = run_with(tmp_path, configuration, code)
    assert done.returncode == 0, done.stderr
    assert stored(database) == LOGGED
    (run,) = mlflow.runs(database)
    assert mlflow.artifacts(run)["text/note/0.txt"] == b"kept"
    assert [data["body"] for data in printed(done)] == ["theirs"]


def test_the_file_wins_over_variables_and_the_script_over_the_file(tmp_path: Path, database: Path) -> None:
    configuration = """
meter_provider:
  readers:
    - periodic: {exporter: {mlflow: {}}}
    - periodic: {exporter: {console: {}}}
distribution:
  tracelet: {isolation: thread, project: "${PROJECT:-of the file}", run_name: of the file}
"""
    code = "import tracelet_otel\ntracelet_otel.configure(run_name='of the script')\n" + LOG + COUNT
    done = run_with(
        tmp_path,
        configuration,
        code,
        OTEL_METRICS_EXPORTER="file",
        OTEL_METRIC_EXPORT_INTERVAL="not a number",
        OTEL_RESOURCE_ATTRIBUTES="service.name=variable",
        TRACELET_PROJECT="of the variable",
        TRACELET_EXPERIMENT="of the variable",
        TRACELET_RUN_NAME="of the variable",
        TRACELET_RUN_ID="resumed",
    )
    assert done.returncode == 0, done.stderr
    assert "-> mlflow" in done.stderr
    assert stored(database) == LOGGED
    assert mlflow.points(database)["batches"][-1].value == 3
    (run,) = mlflow.runs(database)
    assert (run.name, run.experiment) == ("of the script", "of the file")
    assert mlflow.tags(database)[semconv.RUN_ID] == "resumed"
    assert shown(printed(done)[-1], semconv.SCALAR) == [99 / 7]
    assert "variable" not in done.stdout


READERS = "meter_provider: {readers: [{periodic: {exporter: {mlflow: {}}}}, %s]}"


@pytest.mark.parametrize(
    ("configuration", "says"),
    [
        (
            READERS % "{periodic: {exporter: {mlfow/development: {}}}}",
            "meter_provider.readers[1].periodic.exporter.mlfow/development: no such exporter is installed",
        ),
        (
            READERS % "{periodic: {exporter: {wandb: {entiti: a}}}}",
            "meter_provider.readers[1].periodic.exporter.wandb: backend 'wandb' does not take these options",
        ),
        (
            READERS % "{periodic: {exporter: {mlflow: {tracking_uri: a}}}}",
            "meter_provider.readers[1].periodic.exporter.mlflow: there is a mlflow already, with other",
        ),
        (
            READERS % "{periodic: {interval: 0, exporter: {aim: {}}}}",
            "meter_provider.readers[1].periodic.interval must be above 0",
        ),
        (
            READERS % "{periodic: {exporter: mlflow}}",
            "at meter_provider -> readers -> 1 -> periodic -> exporter",
        ),
        (
            "logger_provider: {processors: [{batch: {exporter: {file: {}}}}]}",
            "exporter.file: no such exporter is installed; ours are aim, clearml, mlflow, wandb",
        ),
        (
            "distribution: {tracelet: {projekt: a}}",
            "distribution.tracelet.projekt: no such setting; allowed are",
        ),
        (
            "distribution: {tracelet: {isolation: none}}",
            "distribution.tracelet.isolation must be one of process, thread, got 'none'",
        ),
        ("propagator: {composite: [{nonesuch: }]}", "'nonesuch'"),
        ("meter_provider: [", "Failed to parse YAML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path: Path, configuration: str, says: str) -> None:
    done = run_with(tmp_path, configuration, LOG + "print('trained')")
    assert (done.returncode, done.stdout) == (0, "trained\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("tracelet-otel: nothing is recorded: otel.yaml: ")
    assert says in line
    assert {path.name for path in tmp_path.iterdir()} == {"otel.yaml", "train.py"}


def test_the_documented_mistake(tmp_path: Path) -> None:
    (said,) = re.findall(r"^tracelet-otel: nothing.*$", blocks("console")[1], re.M)
    done = run_with(tmp_path, "meter_provider: {readers: [{periodic: {exporter: {mlfow: {}}}}]}", LOG)
    assert done.stderr.splitlines() == [said]


def test_what_a_reader_of_ours_does_not_use_is_said(tmp_path: Path) -> None:
    configuration = "meter_provider: {readers: [{periodic: {timeout: 5, exporter: {file: {path: points}}}}]}"
    done = run_with(tmp_path, configuration, LOG)
    assert "otel.yaml: meter_provider.readers[0].periodic.timeout is not used" in done.stderr
    assert spooled(tmp_path / "points") == {"loss": LOGGED}


@pytest.mark.parametrize("configuration", ["disabled: true\n" + CONSOLE, CONSOLE], ids=["file", "variable"])
def test_switched_off_is_off(tmp_path: Path, configuration: str) -> None:
    variables = {} if "disabled" in configuration else {"OTEL_SDK_DISABLED": "true"}
    done = run_with(tmp_path, configuration, LOG + COUNT, **variables)
    assert (done.returncode, done.stdout) == (0, "")
    assert "tracelet-otel" not in done.stderr


def test_instrumentations_are_switched_off_and_none_is_applied_twice(tmp_path: Path) -> None:
    configuration = """
instrumentation/development:
  python:
    argparse: {enabled: false}
    environment: {enabled: false}
    tensorboard: {enabled: false}
    tensorboardx: {}
    system_metrics: {}
meter_provider:
  readers:
    - periodic: {exporter: {file: {path: points}}}
"""
    code = (
        LOG
        + """
from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor
from tracelet_otel.instrumentation.tensorboard.instrumentor import (
    TensorBoardInstrumentor,
    TensorBoardXInstrumentor,
)
for kind in (TensorBoardInstrumentor, TensorBoardXInstrumentor, SystemMetricsInstrumentor):
    print(kind().is_instrumented_by_opentelemetry)
"""
    )
    done = run_with(tmp_path, configuration, code)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr
    assert "Attempting" not in done.stderr
    records = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "points").rglob("*.jsonl"))
    assert "tracelet.run" in records
    assert "tracelet.environment" not in records
