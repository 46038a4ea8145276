"""``opentelemetry-instrument``: light, beside other distributions, and with a user's own OpenTelemetry."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.support import mlflow_content as mlflow
from tests.support.scripts import run_script
from tracelet_otel.otlp.decoding import decode_series

LOG = """
import tracelet_otel
for step in range(100):
    tracelet_otel.log_scalar("loss", step / 7, step)
"""


@contextmanager
def otlp_server() -> Generator[tuple[str, list[ExportMetricsServiceRequest]]]:
    """An OTLP/HTTP receiver for metrics. Protocol: OpenTelemetry specification, "OTLP/HTTP Request"."""
    received: list[ExportMetricsServiceRequest] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/metrics":
                received.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


def test_start_up_imports_nothing_heavy(tmp_path: Path) -> None:
    code = """
    import sys
    heavy = {"torch", "tensorboard", "tensorboardX", "lightning", "pytorch_lightning"}
    heavy |= {"mlflow", "wandb", "aim", "clearml"}
    heavy |= {"numpy", "sqlalchemy", "fsspec", "pandas", "grpc", "httpx", "uvicorn"}
    print(sorted(heavy & sys.modules.keys()))
    """
    done = run_script(tmp_path, code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_launcher_loads_nothing_of_us_but_our_name(tmp_path: Path) -> None:
    code = """
    import os, sys
    from importlib.metadata import entry_points
    for entry in entry_points(group="opentelemetry_environment_variables"):
        entry.load()
    heavy = {"tracelet_otel", "opentelemetry.sdk.metrics"}
    print(os.environ["OTEL_PYTHON_DISTRO"], heavy & sys.modules.keys())
    """
    done = run_script(tmp_path, code, zero_code=False)
    assert (done.stdout, done.stderr) == ("tracelet set()\n", "")


def test_importing_the_package_imports_no_tracker_and_hooks_nothing(tmp_path: Path) -> None:
    code = """
    import sys, signal
    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        return sys.excepthook, sys.exit, sys.stdout, sys.stderr, handlers
    before = state()
    import tracelet_otel
    assert before == state()
    assert not {"mlflow", "wandb", "aim", "clearml", "torch", "numpy", "tensorboard"} & sys.modules.keys()
    """
    done = run_script(tmp_path, code, zero_code=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_several_backends_side_by_side(tmp_path: Path, database: Path) -> None:
    with otlp_server() as (endpoint, received):
        done = run_script(
            tmp_path,
            LOG,
            variables={
                "OTEL_METRICS_EXPORTER": "mlflow, otlp, console",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            },
        )
    assert done.returncode == 0, done.stderr
    assert [p.value for p in mlflow.points(database)["loss"]] == [step / 7 for step in range(100)]
    over_otlp = [
        point for request in received for series in decode_series(request) for point in series.points
    ]
    assert [(p.step, p.value) for p in over_otlp] == [(step, step / 7) for step in range(100)]
    assert '"training.scalar"' in done.stdout  # the console exporter was asked for
    assert "-> mlflow, otlp, console" in done.stderr
    for name in ("mlflow", "otlp", "console"):
        assert f"{name}: captured 100 points, delivered all" in done.stderr


def test_a_dead_collector_costs_mlflow_nothing(tmp_path: Path, database: Path) -> None:
    done = run_script(
        tmp_path,
        LOG,
        variables={
            "OTEL_METRICS_EXPORTER": "mlflow,otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "TRACELET_SHUTDOWN_TIMEOUT": "3",
        },
    )
    assert done.returncode == 0, done.stderr
    assert len(mlflow.points(database)["loss"]) == 100
    assert mlflow.runs(database)[0].status == "FINISHED"
    assert "otlp: captured 100 points, delivered nothing, spooled 100 points" in done.stderr


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_METRICS_EXPORTER": "mlfow"}, "no backend 'mlfow' is installed; available are "),
        ({"TRACELET_SHUTDOWN_TIMEOUT": "soon"}, "TRACELET_SHUTDOWN_TIMEOUT must be a number"),
        ({"OTEL_TRACES_EXPORTER": "nonesuch"}, "OTEL_TRACES_EXPORTER: no exporter 'nonesuch' is installed"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(tmp_path: Path, variables: dict[str, str], says: str) -> None:
    done = run_script(tmp_path, LOG + "print('trained')", variables=variables)
    assert (done.returncode, done.stdout) == (0, "trained\n")
    (line,) = done.stderr.splitlines()
    assert says in line
    assert line.startswith("tracelet-otel: nothing is recorded: ")


@pytest.mark.parametrize("variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_METRICS_EXPORTER": "none"}])
def test_switched_off_is_off(tmp_path: Path, variables: dict[str, str]) -> None:
    done = run_script(tmp_path, LOG + "tracelet_otel.configure(project='p')\n" + LOG, variables=variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "mlflow.db").exists()


OWN_PROVIDER = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
"""
USE_PROVIDER = """
metrics.get_meter("user").create_counter("batches").add(3)
(metric,) = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
assert metric.name == "batches" and metric.data.data_points[0].value == 3
"""


@pytest.mark.parametrize("order", ["before", "after", "zero-code"])
def test_a_users_own_meter_provider_keeps_working(tmp_path: Path, database: Path, order: str) -> None:
    configure = "import tracelet_otel\ntracelet_otel.configure()\n"
    start = {
        "before": OWN_PROVIDER + configure,
        "after": configure + OWN_PROVIDER,
        "zero-code": OWN_PROVIDER,
    }[order]
    done = run_script(tmp_path, start + LOG + USE_PROVIDER, zero_code=order == "zero-code")
    assert done.returncode == 0, done.stderr
    assert "Overriding" not in done.stderr
    assert len(mlflow.points(database)["loss"]) == 100
    assert "batches" not in mlflow.points(database)


def test_metrics_of_other_instruments_land_in_the_run(tmp_path: Path, database: Path) -> None:
    code = (
        LOG
        + """
from opentelemetry import metrics
metrics.get_meter("user").create_counter("batches").add(3)
tracelet_otel.flush()
"""
    )
    done = run_script(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert mlflow.points(database)["batches"][0].value == 3


OTHER_DISTRO = """
from opentelemetry.instrumentation.distro import BaseDistro
from opentelemetry.sdk._configuration import _OTelSDKConfigurator
class Distro(BaseDistro):
    def _configure(self, **kwargs):
        import os
        os.environ["OTHER_DISTRO"] = "loaded"
class Configurator(_OTelSDKConfigurator):
    pass
"""


@pytest.mark.parametrize("named", ["", "other"])
def test_beside_another_distribution(tmp_path: Path, database: Path, named: str) -> None:
    info = tmp_path / "packages" / "aaa_other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aaa-other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[opentelemetry_distro]\nother = aaa_other:Distro\n"
        "[opentelemetry_configurator]\nother = aaa_other:Configurator\n"
    )
    (info.parent / "aaa_other.py").write_text(OTHER_DISTRO)
    variables = {"PYTHONPATH": str(info.parent)}
    if named:
        variables |= {"OTEL_PYTHON_DISTRO": named, "OTEL_PYTHON_CONFIGURATOR": named}
    done = run_script(tmp_path, LOG + "import os; print(os.environ.get('OTHER_DISTRO'))", variables=variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("loaded\n" if named else "None\n")
    assert [p.value for p in mlflow.points(database)["loss"]] == [step / 7 for step in range(100)]


def test_configure_refines_what_is_there(tmp_path: Path, database: Path) -> None:
    code = (
        LOG
        + """
tracelet_otel.configure(project="vision", run_name="refined")
for step in range(100, 200):
    tracelet_otel.log_scalar("loss", step / 7, step)
"""
    )
    done = run_script(tmp_path, code)
    assert done.returncode == 0, done.stderr
    points = [point for run in mlflow.runs(database) for point in mlflow.points(database, run.id)["loss"]]
    assert [point.step for point in points] == list(range(200))


def test_configure_before_the_first_value_leaves_one_run(tmp_path: Path, database: Path) -> None:
    done = run_script(
        tmp_path, "import tracelet_otel\ntracelet_otel.configure(project='vision', run_name='named')" + LOG
    )
    assert done.returncode == 0, done.stderr
    (run,) = mlflow.runs(database)
    assert (run.name, run.experiment, run.status) == ("named", "vision", "FINISHED")


def test_refining_keeps_an_open_writer_and_what_threads_log_meanwhile(tmp_path: Path, database: Path) -> None:
    code = """
    import threading
    from torch.utils.tensorboard import SummaryWriter
    import tracelet_otel
    writer = SummaryWriter("logs")
    writer.add_scalar("loss", 0.0, 0)
    stop, count = threading.Event(), 0
    def work():
        global count
        while not stop.wait(0.005):
            tracelet_otel.log_scalar("thread", float(count), count)
            count += 1
    thread = threading.Thread(target=work)
    thread.start()
    tracelet_otel.configure(run_name="refined")
    writer.add_scalar("loss", 1.0, 1)
    stop.set()
    thread.join()
    print(count)
    """
    done = run_script(tmp_path, code)
    assert done.returncode == 0, done.stderr
    (run,) = mlflow.runs(database)
    assert (run.name, run.status) == ("refined", "FINISHED")
    stored = mlflow.points(database)
    assert [point.step for point in stored["loss"]] == [0, 1]
    assert [point.step for point in stored["thread"]] == list(range(int(done.stdout)))


@pytest.mark.filterwarnings("ignore")
def test_a_metric_that_cannot_be_encoded_costs_itself_only(tmp_path: Path, database: Path) -> None:
    code = """
    from opentelemetry import metrics
    metrics.get_meter("user").create_gauge("flag").set(True)
    import tracelet_otel
    tracelet_otel.log_scalar("loss", 1.0, 1)
    tracelet_otel.log_scalar("early", 1.0, 1, wall_time=-1.0)
    tracelet_otel.log_scalar("late", 1.0, 1, wall_time=1e13)
    tracelet_otel.log_scalars(None)
    """
    done = run_script(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert mlflow.runs(database)[0].status == "FINISHED"
    assert mlflow.points(database).keys() >= {"loss", "early", "late"}
    assert "Traceback" not in done.stderr
