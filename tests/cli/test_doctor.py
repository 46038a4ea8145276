from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Logged, Output
from tests.delivery.otlp.receiver import PROTOCOLS, Protocol, Reply, receiver
from tests.support.clearml_server import ClearMLServer
from tests.support.scripts import run_script

Tracelet = Callable[..., Output]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where clients would put what they like."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in [folder, *folder.rglob("*")]}


def examine(tracelet: Tracelet, *arguments: object) -> tuple[int, dict[str, Any]]:
    done = tracelet("doctor", "--json", *arguments)
    assert done.err == ""
    return done.code, json.loads(done.out)


def test_nothing_is_created(tracelet: Tracelet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, found = examine(tracelet, "--backend", "mlflow,aim,wandb,file")
    assert (code, found["problems"]) == (0, [])
    answers = {row["backend"]: (row["state"], row["detail"]) for row in found["reachable"]}
    assert answers == {
        "mlflow": ("new", f"{tmp_path}/mlflow.db will be created"),
        "aim": ("new", f"{tmp_path}/.aim will be created"),
        "wandb": ("ok", "connected"),
        "file": ("new", f"{tmp_path}/state/tracelet-otel/spool will be created"),
    }
    assert everything(tmp_path) == before


def test_what_is_there_is_connected_to_and_stays_as_it_is(
    tracelet: Tracelet, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
    from pathlib import Path
    from tracelet_otel.otlp.records import RunInfo
    from tracelet_otel_exporters.aim.tracker import AimTracker
    tracker = AimTracker(".")
    tracker.load()
    tracker.open_run(RunInfo("run"))
    tracker.close_run("run", "finished")
    tracker.close()
    """
    assert run_script(tmp_path, code, zero_code=False).returncode == 0
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    before = everything(tmp_path)
    with closing(ClearMLServer()) as server:
        for name, value in server.variables().items():
            monkeypatch.setenv(name, value)
        uri = f"mlflow.tracking_uri=sqlite:///{database}"
        status, found = examine(tracelet, "--backend", "mlflow,aim,clearml", "--option", uri)
    assert (status, found["problems"]) == (0, [])
    assert {row["state"] for row in found["reachable"]} == {"ok"}
    assert everything(tmp_path) == before


def test_a_server_that_is_away_or_hangs_is_a_problem_with_a_remedy(
    tracelet: Tracelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        hanging = f"http://127.0.0.1:{server.getsockname()[1]}"
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            closed = free.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", hanging)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{closed}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "mlflow,otlp,clearml,console")
        began = time.monotonic()
        code, found = examine(tracelet, "--timeout", "6")
    assert time.monotonic() - began < 20
    assert code == 1
    rows = {row["backend"]: row for row in found["reachable"]}
    assert rows["mlflow"]["state"] == "unreachable"
    assert rows["mlflow"]["detail"] == "no answer within 6 s"
    assert "MLFLOW_TRACKING_URI" in rows["mlflow"]["todo"]
    assert rows["otlp"]["state"] == "unreachable"
    assert "start the Collector" in rows["otlp"]["todo"]
    assert rows["clearml"]["state"] == "refused"
    assert "clearml-init" in rows["clearml"]["todo"]
    assert rows["console"]["state"] == "ok"
    assert [problem["problem"].split(":")[0] for problem in found["problems"]] == [
        "mlflow",
        "otlp",
        "clearml",
    ]
    assert {row["setting"]: row["from"] for row in found["configured"]}["backends"] == "OTEL_METRICS_EXPORTER"


def test_otlp_is_asked_for_real(tracelet: Tracelet, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                requests.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        code, found = examine(tracelet, "--backend", "otlp")
        thread.join()
    assert (code, found["reachable"][0]["detail"]) == (0, "took an empty request")
    assert requests[0].startswith(b"POST /v1/metrics ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_that_denies_us_is_said_to(tracelet: Tracelet, protocol: Protocol) -> None:
    with receiver(protocol) as inbox:
        inbox.answer_to_nothing = lambda _: Reply("denied", "no token")
        options = ("--option", f"otlp.endpoint={inbox.endpoint}", "--option", f"otlp.protocol={protocol}")
        code, found = examine(tracelet, "--backend", "otlp", *options)
    (row,) = found["reachable"]
    assert (code, row["state"]) == (1, "refused")
    assert "no token" in row["detail"]
    assert "OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL and _HEADERS" in row["todo"]


def test_a_folder_that_cannot_be_there(tracelet: Tracelet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    uri = f"mlflow.tracking_uri=sqlite:///{tmp_path}/file/mlflow.db"
    code, found = examine(tracelet, "--backend", "mlflow,nope", "--option", uri)
    assert code == 1
    rows = {row["backend"]: row for row in found["reachable"]}
    assert rows["mlflow"]["state"] == "refused"
    assert f"{tmp_path}/file/mlflow.db cannot be created" in rows["mlflow"]["detail"]
    assert rows["nope"]["state"] == "unusable"
    assert "available are" in rows["nope"]["detail"]


def test_secrets_are_masked(tracelet: Tracelet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=s3cr3t,authorization=Bearer%20t0k3n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:pa55word@127.0.0.1:9")
    monkeypatch.setenv("TRACELET_PROJECT", "shown")
    done = tracelet("doctor", "--backend", "file")
    for secret in ("0123456789abcdef", "hunter2", "s3cr3t", "t0k3n", "pa55word"):
        assert secret not in done.out
    assert "x-team=***,authorization=***" in done.out
    assert "shown" in done.out


def test_a_wrong_setting_is_a_problem(tracelet: Tracelet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_SHUTDOWN_TIMEOUT", "soon")
    code, found = examine(tracelet)
    assert code == 1
    assert "TRACELET_SHUTDOWN_TIMEOUT must be a number, got 'soon'" in found["problems"][0]["problem"]


def test_what_waits_is_listed_with_its_command(tracelet: Tracelet, logged: Logged) -> None:
    shutil.copytree(logged.spool, logged.spool.parent / "mlflow")
    code, found = examine(tracelet, "--backend", "file")
    assert code == 0
    of_file, of_mlflow = sorted(found["spool"]["waiting"], key=lambda row: row["backend"])
    assert (of_file["points"], of_file["records"], of_file["being_written"]) == (309, 10, False)
    assert of_file["replay"] == f"tracelet-otel replay {logged.spool} --backend BACKEND"
    assert of_mlflow["replay"].endswith("/mlflow --backend mlflow")
    done = tracelet("doctor", "--backend", "file")
    assert f"deliver it with: {of_mlflow['replay']}\n" in done.out
    assert "\x1b" not in done.out


def test_what_is_hooked_and_who_runs_it(tracelet: Tracelet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "lightning, gpu")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "job"}.items():
        monkeypatch.setenv(name, value)
    _, found = examine(tracelet, "--backend", "file")
    states = {row["instrumentor"]: row["state"] for row in found["hooked"]}
    assert states["lightning"] == "off: as configured"
    assert states["tensorboard"] == "on"
    assert "tracelet" in found["others"]["distros"]
    assert (found["run"]["rank"], found["run"]["id_from"]) == (1, "launcher")
    versions = {row["package"]: row["version"] for row in found["installed"]}
    assert versions["mlflow"]
    assert versions["opentelemetry-sdk"]


def test_a_configuration_file_is_checked(
    tracelet: Tracelet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "otel.yaml"
    text = """
file_format: "1.0"
meter_provider: {readers: [{periodic: {exporter: {file: {path: points}}}}]}
instrumentation/development: {python: {lightning: {enabled: false}}}
distribution: {tracelet: {project: digits}}
"""
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("OTEL_CONFIG_FILE", str(path))
    monkeypatch.setenv("TRACELET_EXPERIMENT", "ignored")
    code, found = examine(tracelet)
    assert (code, found["problems"]) == (0, [])
    settings = {row["setting"]: (row["value"], row["from"]) for row in found["configured"]}
    assert settings["project"] == ("digits", f"{path}: distribution.tracelet.project")
    assert settings["experiment"] == ("", "default")
    assert settings["backends"] == ("file", f"{path}: meter_provider.readers")
    assert {row["instrumentor"]: row["state"] for row in found["hooked"]}["lightning"] == "off: as configured"
    path.write_text(text.replace("project", "projekt"), encoding="utf-8")
    code, found = examine(tracelet)
    (problem,) = found["problems"]
    assert code == 1
    assert problem["problem"].startswith(f"{path}: distribution.tracelet.projekt: no such setting")


STORES = """
from pathlib import Path
from tests.fifth_tracker.json_folder import JsonFolderTracker
from tracelet_otel.tracker.interface import LocalStorage

class StoringTracker(JsonFolderTracker):
    def local_storage(self):
        return LocalStorage(Path(self._folder))

    def load(self):
        raise AssertionError("nothing may be created")
"""


def test_a_tracker_of_another_package_says_where_it_keeps_runs(
    tracelet: Tracelet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    about = site / "storing-1.dist-info"
    about.mkdir(parents=True)
    (site / "storing.py").write_text(STORES)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: storing\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[tracelet_otel_tracker]\nstoring = storing:StoringTracker\n")
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{root}")
    runs = tmp_path / "runs"
    options = ("--backend", "storing", "--option", f"storing.folder={runs}")
    code, found = examine(tracelet, *options)
    (row,) = found["reachable"]
    assert (code, row["state"], row["detail"]) == (0, "new", f"{runs} will be created")
    (tmp_path / "runs").touch()
    _, found = examine(tracelet, "--backend", "storing", "--option", f"storing.folder={runs}/below")
    assert found["reachable"][0]["state"] == "refused"
