from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import POINTS, Backend, Logged, Output
from tests.support import mlflow_content as mlflow
from tests.support.scripts import clean_environment
from tracelet_otel.cli import spools
from tracelet_otel.delivery.spool.reading import read
from tracelet_otel.otlp.decoding import decode_records, decode_series, parse_logs, parse_metrics

# What the trackers' libraries do at their import.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``declarative_base"),  # AIM: SQLAlchemy
]

Tracelet = Callable[..., Output]
ROOT = Path(__file__).resolve().parents[2]


def run_id(spool: Path) -> str:
    """The one run of a spool."""
    (found,) = {
        record.run_id
        for batch in read(spool)
        if isinstance(batch.logs, bytes)
        for record in decode_records(parse_logs(batch.logs))
    }
    return found


def points(spool: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of a spool by tag."""
    found: dict[str, list[tuple[int, float]]] = {}
    for batch in read(spool):
        if isinstance(batch.metrics, bytes):
            for series in decode_series(parse_metrics(batch.metrics)):
                found.setdefault(series.tag, []).extend((p.step, p.value) for p in series.points)
    return found


def content(backend: Backend, run: str) -> object:
    """Everything that a tracker has of a run, comparable."""
    subject = backend.subject
    files = {
        name: data
        for name, data in subject.files(run).items()
        # W&B's own of each process, and its list of the names that each process changed
        if backend.name != "wandb" or name.startswith("tracelet/companion")
    }
    stored = {tag: sorted(map(repr, found)) for tag, found in subject.points(run).items()}
    media = sorted(map(repr, subject.media(run)))
    return stored, subject.params(run), subject.tags(run), media, files, subject.status(run)


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_twice_is_once_in_every_tracker(tracelet: Tracelet, logged: Logged, backend: Backend) -> None:
    run = run_id(logged.spool)
    expected = f"{backend.name}: delivered {POINTS} points and "
    first = tracelet("replay", logged.spool, *backend.arguments)
    assert first.code == 0, first.err
    assert [line for line in first.err.splitlines() if " bytes of " not in line] == []  # but for the progress
    assert first.out.startswith(expected)
    assert "refused" not in first.out
    before = content(backend, run)
    assert backend.subject.status(run) == "finished"
    assert backend.subject.description(run)["name"] == "live"
    stored = backend.subject.points(run)
    native = sum(map(len, stored.values()))
    aside = [line for name, data in backend.subject.files(run).items() if "companion" in name
             for line in map(json.loads, data.splitlines()) if line["kind"] == "scalar"]  # fmt: skip
    assert native + len(aside) == POINTS
    assert [(p.step, p.value) for p in stored["train/loss"]] == points(logged.spool)["train/loss"]

    again = tracelet("replay", logged.spool, *backend.arguments, "--remove")
    assert again.code == 0
    assert again.out.startswith(expected)
    assert content(backend, run) == before
    assert f"removed {logged.spool}" in again.out
    assert not logged.spool.parent.exists()


def test_without_a_path_each_gets_what_waits_for_it(
    tracelet: Tracelet, logged: Logged, mlflow_backend: Backend, tmp_path: Path
) -> None:
    session = logged.spool.parent
    shutil.copytree(logged.spool, session / "wandb")
    shutil.copytree(logged.spool, session / "mlflow")
    arguments = [*mlflow_backend.arguments, "--remove"]
    done = tracelet("replay", *arguments)
    assert done.out.startswith(f"mlflow: delivered {2 * POINTS} points")
    assert sorted(path.name for path in session.iterdir()) == ["wandb"]
    assert tracelet("replay", *arguments).out.startswith("nothing to replay in ")
    explicit = tracelet("replay", session, *arguments)
    assert explicit.out.startswith(f"mlflow: delivered {POINTS} points")
    assert f"kept {session / 'wandb'}: it waits for wandb" in explicit.out


def test_a_torn_last_line_and_a_bad_one_cost_themselves(
    tracelet: Tracelet, logged: Logged, mlflow_backend: Backend, tmp_path: Path
) -> None:
    (path,) = logged.spool.glob("*.metrics.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + b"no json\n" + whole[: len(whole) // 2])
    done = tracelet("replay", logged.spool, *mlflow_backend.arguments, "--remove")
    assert done.code == 0
    assert done.out.startswith(f"mlflow: delivered {POINTS} points")
    assert f"skipped 1 damaged request in {logged.spool}" in done.out
    assert f"left out the last request in {logged.spool}: it is incomplete" in done.out
    assert f"kept {logged.spool}: it has requests that cannot be read" in done.out
    stored = mlflow.points(tmp_path / "mlflow" / "mlflow.db")
    assert len(stored["train/loss"]) == 300


WRITER = """
import itertools, sys, time
from pathlib import Path
from tests.delivery.spool.test_spool import logs, metrics
from tracelet_otel.delivery.spool.spool import Spool
spool = Spool(Path(sys.argv[1]), max_bytes=10**9)
spool.append(logs("run", b'{"name": "alive"}'))
for number in itertools.count():
    spool.append(metrics(f"tag{number % 5}", range(number * 10, number * 10 + 10)))
    time.sleep(0.02)  # at the pace of a fast training loop
    if number == 20:
        print("writing", flush=True)
    if number > 20 and not Path(sys.argv[2]).exists():
        break
spool.append(logs("status"))
spool.close()
print(number + 1, flush=True)
"""


def test_a_spool_that_a_process_is_writing_to(
    tracelet: Tracelet, mlflow_backend: Backend, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    go_on.touch()
    placeholder = tmp_path / "spools" / "20260101-000000-{pid}-0a1b2c" / "file"
    # The folder's name has the writer's id, which it knows only itself.
    code = WRITER.replace("Path(sys.argv[1])", "Path(sys.argv[1].format(pid=__import__('os').getpid()))")
    command = [sys.executable, "-c", code, str(placeholder), str(go_on)]
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        try:
            assert writer.stdout.readline() == "writing\n"
            spool = Path(str(placeholder).format(pid=writer.pid))
            for _ in range(2):
                done = tracelet("replay", tmp_path / "spools", *mlflow_backend.arguments, "--remove")
                assert done.code == 0
                assert f"kept {spool}: " in done.out
                assert "so it stays open: r" in done.out
            assert writer.poll() is None
            (run,) = mlflow.runs(tmp_path / "mlflow" / "mlflow.db")
            assert (run.name, run.status) == ("alive", "RUNNING")
        finally:
            go_on.unlink()
        written = int(writer.stdout.read())
    done = tracelet("replay", tmp_path / "spools", *mlflow_backend.arguments, "--remove")
    assert done.code == 0
    assert f"removed {spool}" in done.out
    stored = mlflow.points(tmp_path / "mlflow" / "mlflow.db")
    steps = sorted(point.step for found in stored.values() for point in found)
    assert steps == list(range(10 * written))
    (run,) = mlflow.runs(tmp_path / "mlflow" / "mlflow.db")
    assert run.status == "FINISHED"


def test_a_spool_of_an_unknown_process_is_kept_while_it_may_be_written_to(
    tracelet: Tracelet, logged: Logged, mlflow_backend: Backend, tmp_path: Path
) -> None:
    moved = shutil.copytree(logged.spool, tmp_path / "elsewhere")
    for path in moved.glob("*.logs.jsonl"):
        if b"tracelet.status" in path.read_bytes():
            path.unlink()
        else:
            os.utime(path)
    arguments = ["replay", moved, *mlflow_backend.arguments, "--remove"]
    assert f"kept {moved}: its process may still write to it" in tracelet(*arguments).out
    for path in moved.glob("*.jsonl"):
        os.utime(path, (1, 1))
    assert f"removed {moved}" in tracelet(*arguments).out
    assert logged.spool.exists()


def test_a_spool_that_does_not_say_what_a_backend_gets_is_kept(
    tracelet: Tracelet, logged: Logged, mlflow_backend: Backend
) -> None:
    for content in ("{", "[]", '{"mlflow": {"kinds": ["unknown"]}}'):
        (logged.spool / "routes.json").write_text(content)
        done = tracelet("replay", logged.spool, *mlflow_backend.arguments, "--remove")
        assert done.code == 1
        assert f"{logged.spool}/routes.json does not say which backend gets what: " in done.out
        assert f"kept {logged.spool}: mlflow does not have all of it" in done.out


def test_one_backend_that_is_away_costs_the_others_nothing(
    tracelet: Tracelet, logged: Logged, tmp_path: Path
) -> None:
    arguments = ["--backend", "mlflow,aim", "--option", f"aim.repo={tmp_path}"]
    arguments += ["--option", f"mlflow.tracking_uri=http://127.0.0.1:{free_port()}"]
    done = tracelet("replay", logged.spool, *arguments, "--timeout", "1.5", "--remove")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0].startswith("mlflow: delivered nothing; stopped after 0 bytes of ")
    assert ": no progress for 1.5 s: " in lines[0]
    assert lines[1].startswith(f"aim: delivered {POINTS} points and ")
    assert lines[2] == "what is left stays where it is; run the command again"
    assert f"kept {logged.spool}: mlflow does not have all of it" in done.out


def test_ctrl_c_ends_it_and_the_next_time_finishes_it(
    tracelet: Tracelet, logged: Logged, mlflow_backend: Backend
) -> None:
    """A server that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        command = [sys.executable, "-m", "tracelet_otel.cli", "replay", str(logged.spool)]
        command += ["--backend", "mlflow"]
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        variables = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
        environment = clean_environment(XDG_STATE_HOME=str(logged.folder / "state"), **variables)
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as replaying:
            server.accept()[0].close()  # it has begun
            connection = server.accept()[0]
            replaying.send_signal(signal.SIGINT)
            out, err = replaying.communicate(timeout=90)
            connection.close()
    assert replaying.returncode == 130, (out, err)
    assert err == "stopping\n"
    assert out.startswith("mlflow: delivered nothing; stopped after 0 bytes of ")
    assert "Traceback" not in out
    done = tracelet("replay", logged.spool, *mlflow_backend.arguments)
    assert done.out.startswith(f"mlflow: delivered {POINTS} points")


def test_what_is_refused_is_said_and_kept(
    tracelet: Tracelet, logged: Logged, mlflow_backend: Backend
) -> None:
    logs = next(
        path for path in logged.spool.glob("*.logs.jsonl") if b'"tracelet.image"' in path.read_bytes()
    )
    lines = logs.read_text().splitlines()  # a line for each collection that had records
    (place,) = [number for number, line in enumerate(lines) if '"tracelet.image"' in line]
    request = json.loads(lines[place])
    (scope,) = request["resourceLogs"][0]["scopeLogs"]
    (image,) = [record for record in scope["logRecords"] if record["eventName"] == "tracelet.image"]
    del image["body"]
    image["attributes"].append({"key": "tracelet.payload.uri", "value": {"stringValue": "media/gone"}})
    lines[place] = json.dumps(request)
    logs.write_text("".join(f"{line}\n" for line in lines))
    done = tracelet("replay", logged.spool, *mlflow_backend.arguments, "--remove")
    assert done.code == 1
    assert "; refused 1 record: " in done.out
    assert "media/gone" in done.out
    assert f"kept {logged.spool}: mlflow does not have all of it" in done.out


def test_a_file_of_the_collector(
    tracelet: Tracelet, logged: Logged, mlflow_backend: Backend, tmp_path: Path
) -> None:
    """Signals mixed, points before the record that describes their run."""
    paths = sorted(logged.spool.glob("*.jsonl"))
    metrics = [path for path in paths if ".metrics." in path.name]
    others = [path for path in paths if path not in metrics]
    traces = b'{"resourceSpans":[]}\n'
    file = tmp_path / "collector.json"
    file.write_bytes(traces + b"".join(path.read_bytes() for path in [*metrics, *others]))
    done = tracelet("replay", file, *mlflow_backend.arguments)
    assert (done.code, done.out[:13]) == (0, "mlflow: deliv")
    (run,) = mlflow.runs(tmp_path / "mlflow" / "mlflow.db")
    assert (run.name, run.status) == ("live", "FINISHED")
    assert sum(map(len, mlflow.points(tmp_path / "mlflow" / "mlflow.db").values())) == POINTS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no/such/file", "--backend", "mlflow"], "there is no no/such/file"),
        ([".", "--backend", "mlflow"], "no spool in ."),
        (["."], "--backend is needed: aim, clearml, mlflow, otlp, wandb"),
        (
            [".", "--backend", "console"],
            "replay cannot deliver to 'console', only to: aim, clearml, mlflow, ",
        ),
        ([".", "--backend", "nope"], "there is no backend 'nope'; available are aim, clearml, mlflow, otlp"),
        ([".", "--backend", "mlflow", "--option", "x"], "--option must look like backend.key=value, got 'x'"),
        (
            [".", "--backend", "mlflow", "--option", "aim.repo=x"],
            "aim.repo: there is no backend aim",
        ),
        ([".", "--backend", "mlflow", "--option", "mlflow.no=x"], "does not take these options"),
    ],
)
def test_what_is_wrong_is_said(tracelet: Tracelet, arguments: list[str], said: str) -> None:
    done = tracelet("replay", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_file_that_vanishes_was_delivered_by_its_process(logged: Logged) -> None:
    (source,) = spools.find([logged.spool])
    stream = spools.parts([source], "mlflow")
    next(stream)
    for path in logged.spool.glob("*.metrics.jsonl"):
        path.unlink()
    assert list(stream)[-1].finished == str(logged.spool)
