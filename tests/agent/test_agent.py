"""Training with its trackers in another process: what it costs training, and what survives it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.delivery.otlp.receiver import receiver
from tests.gateway.process import install_json_tracker
from tests.gateway.support import Job
from tests.support import mlflow_content as mlflow
from tests.support.agents import Agents
from tests.support.fifth_subject import FifthSubject
from tests.support.scripts import run_script, script_command, write_script
from tracelet_otel.agent.address import Address
from tracelet_otel.agent.protocol import TrainingProcess
from tracelet_otel.agent.server import Agent

LOG = """
import sys, tracelet_otel
for step in range({points}):
    tracelet_otel.log_scalar("loss", step / 7, step)
tracelet_otel.log_text("note", "hello")
"""

OUTSIDE_A_CONTAINER = """
import tracelet_otel.agent.delivery
tracelet_otel.agent.delivery._CONTAINERS = ()  # where these tests run may be one
"""
HAS_NO_CHILD = """
def has_no_child():
    import os
    try:
        os.wait()
    except ChildProcessError:
        return True
"""


def check(database: Path, status: str, points: int) -> None:
    (run,) = mlflow.runs(database)
    logged = mlflow.points(database)["loss"]
    assert [(point.step, point.value) for point in logged] == [(step, step / 7) for step in range(points)]
    assert run.status == status


def spools(folder: Path) -> list[str]:
    state = folder / "state" / "tracelet-otel" / "spool"
    return sorted(path.relative_to(state).as_posix() for path in state.rglob("*") if path.is_file())


def replay(
    folder: Path,
    agents: Agents,
    variables: dict[str, str],
    backends: str = "mlflow",
    path: str = "",
    *options: str,
) -> None:
    command = [sys.executable, "-m", "tracelet_otel.cli", "replay", "--backend", backends, "--remove"]
    command += [path] * bool(path) + [f"--option={option}" for option in options]
    environment = agents.environment(**variables)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def variables(agents: Agents, tmp_path: Path) -> dict[str, str]:
    return {**agents.variables, "XDG_STATE_HOME": str(tmp_path / "state")}


def test_training_is_apart_from_its_trackers(
    tmp_path: Path, database: Path, agents: Agents, variables: dict[str, str]
) -> None:
    code = LOG.format(points=5_000) + (
        "assert tracelet_otel.flush()\n"
        "import os, psutil, threading\n"
        "loaded = [name for name in ('mlflow', 'grpc', 'uvicorn', 'sqlalchemy') if name in sys.modules]\n"
        "print(loaded, psutil.Process().children(), has_no_child())\n"
    )
    done = run_script(tmp_path, HAS_NO_CHILD + code, variables=variables)
    assert (done.returncode, done.stdout) == (0, "[] [] True\n"), done.stderr
    assert "mlflow: captured 5,000 points and 1 record, delivered all -> sqlite:" in done.stderr
    agents.wait_until_gone()
    check(database, "FINISHED", 5_000)
    assert (agents.files(), agents.log(), spools(tmp_path)) == ([], "", [])


def test_a_process_that_logs_nothing_starts_none(
    tmp_path: Path, agents: Agents, variables: dict[str, str]
) -> None:
    done = run_script(tmp_path, "import tracelet_otel; tracelet_otel.configure()", variables=variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert agents.files() == []


def test_training_notices_that_its_agent_has_died(
    tmp_path: Path, database: Path, agents: Agents, variables: dict[str, str]
) -> None:
    code = LOG.format(points=1_000) + (
        "assert tracelet_otel.flush()\n"
        "print('flushed', flush=True)\n"
        "input()\n"
        "for step in range(1_000, 2_000):\n"
        "    tracelet_otel.log_scalar('loss', step / 7, step)\n"
        "assert tracelet_otel.flush()\n"
        "for step in range(2_000, 3_000):\n"
        "    tracelet_otel.log_scalar('loss', step / 7, step)\n"
    )
    process = subprocess.Popen(
        script_command(write_script(tmp_path, code)),
        cwd=tmp_path,
        env=agents.environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "flushed\n"
    (agent,) = agents.alive()
    agent.kill()
    psutil.wait_procs([agent])
    _, err = process.communicate("\n", timeout=110)
    assert process.returncode == 0, err
    assert "captured 3,000 points and 1 record, delivered all" in err
    agents.wait_until_gone()
    check(database, "FINISHED", 3_000)
    assert spools(tmp_path) == []


def test_an_agent_that_dies_with_undelivered_data_has_a_successor(
    tmp_path: Path, database: Path, agents: Agents, variables: dict[str, str]
) -> None:
    """What the first one had acknowledged is on the disk, and the second one delivers it."""
    code = LOG.format(points=20_000) + (
        "import os, time, tracelet_otel.session.process, psutil\n"
        "(delivery,) = tracelet_otel.session.process.session()._deliveries\n"
        "while delivery.counts.delivered_points < 20_000:\n"
        "    time.sleep(0.01)\n"
        "os.kill(delivery.client.agents[-1], 9)\n"
        "tracelet_otel.log_scalar('loss', 20_000 / 7, 20_000)\n"
    )
    done = run_script(tmp_path, code, variables=variables)
    assert done.returncode == 0, done.stderr
    agents.wait_until_gone()
    check(database, "FINISHED", 20_001)
    assert "captured 20,001 points and 1 record, delivered all" in done.stderr


def test_training_ends_by_its_deadline_and_the_agent_finishes_the_rest(
    tmp_path: Path, database: Path, agents: Agents, variables: dict[str, str]
) -> None:
    code = OUTSIDE_A_CONTAINER + LOG.format(points=50_000) + "import time; print(time.time(), flush=True)"
    begin = time.monotonic()
    done = run_script(tmp_path, code, variables={**variables, "TRACELET_SHUTDOWN_TIMEOUT": "1"})
    after = time.time() - float(done.stdout)
    assert done.returncode == 0, done.stderr
    assert after < 10, f"{after} s, and {time.monotonic() - begin} s in all"  # 1 s and a slow machine
    assert "the agent (process " in done.stderr
    assert "goes on with" in done.stderr
    agents.wait_until_gone()
    check(database, "FINISHED", 50_000)
    assert spools(tmp_path) == []


def test_training_waits_where_the_agent_would_end_with_it(
    tmp_path: Path, database: Path, agents: Agents, variables: dict[str, str]
) -> None:
    """A Slurm job's processes are killed once its script has ended."""
    slow = {**variables, "TRACELET_SHUTDOWN_TIMEOUT": "20", "SLURM_JOB_ID": "1"}
    done = run_script(tmp_path, LOG.format(points=30_000), variables=slow)
    assert "captured 30,000 points and 1 record, delivered all" in done.stderr
    agents.wait_until_gone()
    check(database, "FINISHED", 30_000)


@pytest.mark.slow
def test_the_ranks_of_a_node_share_one(
    tmp_path: Path, database: Path, agents: Agents, variables: dict[str, str]
) -> None:
    code = """
    import os, tracelet_otel, tracelet_otel.session.process
    tracelet_otel.configure()
    rank = int(os.environ["RANK"])
    for step in range(500):
        tracelet_otel.log_scalar("loss", step + 1000.0 * rank, step)
    assert tracelet_otel.flush()
    (delivery,) = tracelet_otel.session.process.session()._deliveries
    print("agent", *delivery.client.agents, flush=True)
    """
    script = write_script(tmp_path, code)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(script)],
        cwd=tmp_path,
        env=agents.environment(**variables),
        capture_output=True,
        text=True,
        timeout=115,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.splitlines())) == 1, done.stdout
    agents.wait_until_gone()
    (run,) = mlflow.runs(database)
    assert run.status == "FINISHED"
    for rank in range(4):
        stored = mlflow.points(database)["loss" if rank == 0 else f"loss/rank_{rank}"]
        assert [point.value for point in stored] == [step + 1000.0 * rank for step in range(500)]


def test_the_agent_keeps_nobody_waiting_who_reads_training_to_its_end(
    tmp_path: Path, database: Path, agents: Agents, variables: dict[str, str]
) -> None:
    """``python train.py | tee log`` ends with training."""
    code = OUTSIDE_A_CONTAINER + LOG.format(points=50_000) + "print('trained')"
    command = script_command(write_script(tmp_path, code))
    env = agents.environment(**{**variables, "TRACELET_SHUTDOWN_TIMEOUT": "0.5"})
    read, write = os.pipe()
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=write, stderr=write)
    os.close(write)
    with os.fdopen(read) as output:
        text = output.read()  # until the last process that has it has closed it
    assert process.wait() == 0
    assert "trained" in text
    assert agents.alive(), text  # it was not waited for
    agents.wait_until_gone()
    check(database, "FINISHED", 50_000)


def test_sigterm_to_both_delivers_and_says_killed(
    tmp_path: Path, database: Path, agents: Agents, variables: dict[str, str]
) -> None:
    """As ``scancel`` and a container's end send it to every process."""
    code = LOG.format(points=1_000) + (
        "assert tracelet_otel.flush()\nprint('flushed', flush=True)\nimport time; time.sleep(100)"
    )
    process = subprocess.Popen(
        script_command(write_script(tmp_path, code)),
        cwd=tmp_path,
        env=agents.environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "flushed\n"
    (agent,) = agents.alive()
    agent.terminate()
    process.terminate()
    _, err = process.communicate(timeout=110)
    assert process.returncode == -signal.SIGTERM
    assert "delivered all" in err
    agents.wait_until_gone()
    check(database, "KILLED", 1_000)


BOTH = pytest.mark.parametrize("isolation", ["process", "thread"])


@BOTH
def test_a_state_folder_that_cannot_be_there_costs_nothing(
    tmp_path: Path, database: Path, agents: Agents, variables: dict[str, str], isolation: str
) -> None:
    more = {**variables, "TRACELET_ISOLATION": isolation, "TRACELET_SPOOL_DIR": "/proc/nope"}
    done = run_script(tmp_path, LOG.format(points=200), variables=more)
    assert "captured 200 points and 1 record, delivered all" in done.stderr
    if isolation == "process":
        assert "/proc/nope/spool cannot be written to" in done.stderr
    agents.wait_until_gone()
    check(database, "FINISHED", 200)


@BOTH
def test_a_backend_that_is_away_with_a_full_spool_costs_the_other_nothing(
    tmp_path: Path, agents: Agents, variables: dict[str, str], isolation: str
) -> None:
    folder = tmp_path / "runs"
    more = {
        **variables,
        "TRACELET_ISOLATION": isolation,
        "OTEL_METRICS_EXPORTER": "mlflow,json_folder",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
        "TRACELET_MAX_SPOOL_BYTES": "200000",
        "TRACELET_SHUTDOWN_TIMEOUT": "3",
        "JSON_FOLDER": str(folder),
        "PYTHONPATH": fifth_tracker(tmp_path),
    }
    done = run_script(tmp_path, LOG.format(points=20_000), variables=more)
    assert done.returncode == 0, done.stderr
    assert "json_folder: captured 20,000 points and 1 record, delivered all" in done.stderr
    assert re.search(r"mlflow: captured 20,000 points .*delivered nothing", done.stderr), done.stderr
    agents.wait_until_gone()


class _Refusing(BaseHTTPRequestHandler):
    def do_any(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_any  # noqa: N815 - the base class's names

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("isolation", "trouble"),
    [("process", "raises"), ("thread", "hangs"), ("thread", "500"), ("thread", "403"), ("thread", "raises")],
)
def test_a_backend_in_trouble_changes_nothing_for_the_other(
    tmp_path: Path, agents: Agents, json_variables: dict[str, str], isolation: str, trouble: str
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server,
    ):
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        uris = {
            "hangs": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "500": f"http://127.0.0.1:{server.server_port}/500",
            "403": f"http://127.0.0.1:{server.server_port}/403",
            "raises": "no-such-scheme://x",
        }
        more = {
            **json_variables,
            "TRACELET_ISOLATION": isolation,
            "OTEL_METRICS_EXPORTER": "mlflow,json_folder",
            "MLFLOW_TRACKING_URI": uris[trouble],
            "TRACELET_SHUTDOWN_TIMEOUT": "2",
        }
        done = run_script(tmp_path, LOG.format(points=2_000), variables=more)
        agents.wait_until_gone()
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert "json_folder: captured 2,000 points and 1 record, delivered all" in done.stderr
    assert "mlflow: captured 2,000 points and 1 record, delivered nothing" in done.stderr
    assert "dropped" not in done.stderr
    assert status(tmp_path) == "finished"


def test_what_no_agent_took_is_found_by_replay(
    tmp_path: Path, database: Path, agents: Agents, variables: dict[str, str]
) -> None:
    code = (
        "from tracelet_otel.agent import client\n"
        "from tracelet_otel.foundation.errors import TransientError\n"
        "def fails(*_):\n    raise TransientError('no more processes')\n"
        "client.launch = fails\n"
    )
    done = run_script(
        tmp_path, code + LOG.format(points=50), variables={**variables, "TRACELET_SHUTDOWN_TIMEOUT": "1"}
    )
    assert "delivered nothing, spooled 50 points and 1 record: no more processes" in done.stderr
    assert mlflow.runs(database) == []
    replay(tmp_path, agents, variables)
    check(database, "FINISHED", 50)
    assert spools(tmp_path) == []


def test_a_replay_of_what_no_agent_took_heeds_routes(
    tmp_path: Path, database: Path, agents: Agents, json_variables: dict[str, str]
) -> None:
    code = """
    import tracelet_otel
    from tracelet_otel.agent import client
    from tracelet_otel.foundation.errors import TransientError
    def fails(*_):
        raise TransientError('no more processes')
    client.launch = fails
    routes = {"include": ["loss/*"], "exclude": ["*/val"], "kinds": ("scalar", "params", "image")}
    tracelet_otel.configure({"mlflow": {}, "json_folder": routes}, run_name="routed")
    for step in range(50):
        for tag in ("loss/train", "loss/val", "lr"):
            tracelet_otel.log_scalar(tag, step / 7, step)
    tracelet_otel.log_scalar("loss/train", float("nan"), 50)
    tracelet_otel.log_text("note", "hello")
    tracelet_otel.log_params({"lr": 0.1})
    for tag in ("loss/picture", "lr/picture"):
        tracelet_otel.log_image(tag, "picture.png", 1)
    """
    picture = b"\x89PNG\r\n\x1a\n" + b"." * 2_000_000  # a file in the spool
    (tmp_path / "picture.png").write_bytes(picture)
    variables = {**json_variables, "TRACELET_SHUTDOWN_TIMEOUT": "1"}
    done = run_script(tmp_path, code, zero_code=False, variables=variables)
    assert done.stderr.count("delivered nothing, spooled 151 points and 4 records: no more processes") == 2
    with receiver("http/protobuf") as inbox:  # the session knew nothing of it: it gets all of it
        options = (f"otlp.endpoint={inbox.endpoint}", "otlp.protocol=http/protobuf")
        replay(tmp_path, agents, variables, "otlp", str(tmp_path / "state"), *options)
        assert {tag: len(found) for tag, found in inbox.points().items()} == {
            "loss/train": 51,
            "loss/val": 50,
            "lr": 50,
        }
        assert len(inbox.events("image")) == 2
    replay(tmp_path, agents, variables, "json_folder,mlflow")
    assert spools(tmp_path) == []
    stored = mlflow.points(database)
    assert {tag: len(stored[tag]) for tag in ("loss/train", "loss/val", "lr")} == {
        "loss/train": 51,
        "loss/val": 50,
        "lr": 50,
    }
    [run] = mlflow.runs(database)
    artifacts = mlflow.artifacts(run)
    assert any(name.startswith("text/note") for name in artifacts)
    assert sum(len(content) == len(picture) for content in artifacts.values()) == 2

    folder = FifthSubject(tmp_path)
    [about] = (tmp_path / "runs").glob("*/run.json")
    run_id = json.loads(about.read_bytes())["id"]
    assert folder.description(run_id)["name"] == "routed"
    assert folder.status(run_id) == "finished"
    assert {tag: len(found) for tag, found in folder.points(run_id).items()} == {"loss/train": 51}
    assert folder.params(run_id) == {"lr": "0.1"}
    [image] = folder.media(run_id)
    assert (image.kind, image.tag, image.content) == ("image", "loss/picture", picture)


def test_it_does_not_wait_for_a_trackers_import(
    tmp_path: Path, agents: Agents, variables: dict[str, str]
) -> None:
    site = fifth_tracker(tmp_path, before_load="import time; time.sleep(8)")
    folder = tmp_path / "runs"
    more = {
        **variables,
        "OTEL_METRICS_EXPORTER": "json_folder",
        "JSON_FOLDER": str(folder),
        "PYTHONPATH": site,
    }
    code = LOG.format(points=1_000) + (
        "import time, tracelet_otel.session.process\n"
        "(delivery,) = tracelet_otel.session.process.session()._deliveries\n"
        "while delivery.counts.delivered_points < 1_000:\n"
        "    time.sleep(0.01)\n"
        "print(sum(item.delivered_points for item in delivery.client.report().backends))\n"
    )
    done = run_script(tmp_path, code, variables=more)
    assert done.stdout == "0\n", done.stderr  # the agent has everything, and the tracker nothing yet
    assert "captured 1,000 points and 1 record, delivered all" in done.stderr
    agents.wait_until_gone()


@pytest.fixture
def json_variables(tmp_path: Path, variables: dict[str, str]) -> dict[str, str]:
    """For the tests' own tracker, which is loaded in no time, and slow or away as a test wants it."""
    return {
        **variables,
        "OTEL_METRICS_EXPORTER": "json_folder",
        "JSON_FOLDER": str(tmp_path / "runs"),
        "PYTHONPATH": fifth_tracker(tmp_path),
    }


def status(folder: Path) -> str:
    (about,) = (folder / "runs").glob("*/run.json")
    return json.loads(about.read_bytes())["status"]


@BOTH
def test_a_tracker_that_is_back_at_the_end_gets_everything(
    tmp_path: Path, agents: Agents, json_variables: dict[str, str], isolation: str
) -> None:
    """Though it was away for so long that the next attempt would be far off."""
    site = Path(json_variables["PYTHONPATH"]) / "json_folder" / "__init__.py"
    connect = "    def connect(self) -> None:\n"
    away = (
        "        from tracelet_otel.foundation.errors import TransientError\n"
        "        if os.path.exists('away'):\n"
        "            raise TransientError('away')\n"
    )
    site.write_text(site.read_text().replace(connect, connect + away, 1))
    (tmp_path / "away").touch()
    code = LOG.format(points=100) + "import os, time\ntime.sleep(12)\nos.unlink('away')\n"
    more = {**json_variables, "TRACELET_ISOLATION": isolation, "TRACELET_SHUTDOWN_TIMEOUT": "10"}
    done = run_script(tmp_path, code, variables=more)
    assert "captured 100 points and 1 record, delivered all" in done.stderr
    agents.wait_until_gone()
    assert status(tmp_path) == "finished"


def test_an_agent_that_dies_while_training_waits_has_a_successor(
    tmp_path: Path, agents: Agents, variables: dict[str, str], json_variables: dict[str, str]
) -> None:
    site = Path(json_variables["PYTHONPATH"]) / "json_folder" / "__init__.py"
    slow = "    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:\n"
    site.write_text(site.read_text().replace(slow, f"{slow}        import time; time.sleep(3)\n", 1))
    code = LOG.format(points=100) + (
        "import os, threading, time, tracelet_otel.session.process\n"
        "(delivery,) = tracelet_otel.session.process.session()._deliveries\n"
        "def kill():\n"
        "    while not delivery.counts.delivered_points:\n"
        "        time.sleep(0.01)\n"
        "    os.kill(delivery.client.agents[-1], 9)\n"
        "threading.Thread(target=kill, daemon=True).start()\n"
    )
    done = run_script(tmp_path, code, variables=json_variables)
    assert "captured 100 points and 1 record, delivered all" in done.stderr
    agents.wait_until_gone()
    assert status(tmp_path) == "finished"


def test_a_successor_asks_who_sends(tmp_path: Path, agents: Agents, json_variables: dict[str, str]) -> None:
    """A process that is silent while another one starts a new agent is not unknown to that for ever."""
    code = (
        "import os, subprocess, sys, time, tracelet_otel, tracelet_otel.session.process\n"
        "tracelet_otel.log_scalar('loss', 0.5, 0)\n"
        "assert tracelet_otel.flush()\n"
        "(delivery,) = tracelet_otel.session.process.session()._deliveries\n"
        "os.kill(delivery.client.agents[-1], 9)\n"
        "child = 'import tracelet_otel; tracelet_otel.configure(); tracelet_otel.log_scalar(\"child\", 1.0, 0); assert tracelet_otel.flush()'\n"  # noqa: E501
        "subprocess.run([sys.executable, '-c', child], check=True)\n"
        "tracelet_otel.log_scalar('loss', 0.25, 1)\n"
        "print(tracelet_otel.flush())\n"
    )
    done = run_script(tmp_path, code, variables=json_variables)
    assert done.stdout == "True\n", done.stderr
    assert "captured 2 points, delivered all" in done.stderr
    agents.wait_until_gone()
    assert status(tmp_path) == "finished"


def test_a_run_whose_owner_was_killed_is_killed_though_another_process_goes_on(
    tmp_path: Path, agents: Agents, json_variables: dict[str, str]
) -> None:
    child = (
        "import time, tracelet_otel\n"
        "from pathlib import Path\n"
        "tracelet_otel.configure()\n"
        "tracelet_otel.log_scalar('child', 1.0)\n"
        "assert tracelet_otel.flush()\n"
        "Path('joined').touch()\n"
        "(about,) = Path('runs').glob('*/run.json')\n"
        "deadline = time.monotonic() + 60\n"
        "while b'killed' not in about.read_bytes() and time.monotonic() < deadline:\n"  # the agent notices
        "    time.sleep(0.05)\n"
        "tracelet_otel.log_scalar('late', 1.0)\n"
    )
    code = (
        "import os, subprocess, sys, time, tracelet_otel\n"
        "tracelet_otel.log_scalar('loss', 0.5, 0)\n"
        "assert tracelet_otel.flush()\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], stderr=subprocess.DEVNULL)\n"
        "while not os.path.exists('joined'):\n"
        "    time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = run_script(tmp_path, code, variables=json_variables)
    assert done.returncode == -signal.SIGKILL
    agents.wait_until_gone()
    (points,) = [path.read_text() for path in (tmp_path / "runs").glob("*/points/*.jsonl")][-1:]
    assert '"late"' in points
    assert status(tmp_path) == "killed"


def test_a_run_whose_owner_was_killed_is_killed_though_a_process_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that logged its first value while the agent was about to end, which opens the run again."""
    monkeypatch.syspath_prepend(install_json_tracker(tmp_path / "site"))
    config = {
        "backends": {"json_folder": {"folder": str(tmp_path / "runs")}},
        "state": str(tmp_path / "state"),
        "max_queue_bytes": 10**6,
        "max_spool_bytes": 10**6,
    }
    agent = Agent(config, Address("key", *(tmp_path / name for name in ("socket", "lock", "log"))))
    job = Job("run-a", name="n")
    try:
        for name, ends_runs in (("owner", True), ("late", False)):
            with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
                started = psutil.Process(process.pid).create_time()
                agent._processes.add(name, TrainingProcess(process.pid, started, ends_runs, 10.0))
                for request in job.begin() * ends_runs + job.steps(name, range(5)):
                    result = agent._intake.take(request.signal, request.data, name)
                    assert result.kind == "accepted"
                assert agent._has_work()
                assert agent._backends[0].delivery.flush(100)
                assert status(tmp_path) == "running"
                process.kill()
            agent._has_work()
            assert agent._backends[0].delivery.flush(100)
            assert status(tmp_path) == "killed"
    finally:
        agent.close()


def test_what_was_on_its_way_when_training_was_killed_leaves_the_run_killed(
    tmp_path: Path, agents: Agents, json_variables: dict[str, str]
) -> None:
    """A busy agent may see the end of its process before it has looked at that one's last request."""
    site = Path(json_variables["PYTHONPATH"]) / "json_folder" / "__init__.py"
    slow = "    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:\n"
    site.write_text(site.read_text().replace(slow, f"{slow}        import time; time.sleep(4)\n", 1))
    code = (
        "import os, time, tracelet_otel, tracelet_otel.session.process\n"
        "session = tracelet_otel.configure(export_interval=100)\n"
        "(delivery,) = session._deliveries\n"
        "send, sent = delivery.client.send, []\n"
        "def keep_last(batch):\n"
        "    sent.append(batch)\n"
        "    return send(batch) if len(sent) < 3 else time.sleep(60)\n"  # the run, and its first point
        "delivery.client.send = keep_last\n"
        "tracelet_otel.log_scalar('loss', 0.5, 0)\n"
        "while delivery.counts.delivered_points < 1:\n"
        "    time.sleep(0.01)\n"
        "tracelet_otel.log_scalar('loss', 0.25, 1)\n"
        "while not sent[-1].points or len(sent) < 3:\n"
        "    time.sleep(0.01)\n"
        "if os.fork():\n"
        "    os.kill(os.getpid(), 9)\n"
        "time.sleep(2)\n"  # the agent has seen it
        "send(sent[-1])\n"
    )
    done = run_script(tmp_path, code, variables=json_variables)
    assert done.returncode == -signal.SIGKILL
    agents.wait_until_gone()
    points = "".join(path.read_text() for path in (tmp_path / "runs").glob("*/points/*.jsonl"))
    assert "[1, 0.25," in points
    assert status(tmp_path) == "killed"


def test_a_folder_for_sockets_that_is_open_to_others_is_closed_and_a_wrong_one_left(
    tmp_path: Path, agents: Agents, json_variables: dict[str, str]
) -> None:
    folder = agents.folder / f"tracelet-otel-{os.getuid()}"
    folder.mkdir(mode=0o755)
    done = run_script(tmp_path, LOG.format(points=10), variables=json_variables)
    assert "captured 10 points and 1 record, delivered all" in done.stderr
    assert folder.stat().st_mode & 0o777 == 0o700
    agents.wait_until_gone()


def fifth_tracker(folder: Path, before_load: str = "pass") -> str:
    """A folder for ``PYTHONPATH`` with the tests' tracker as somebody's own installed package."""
    site = folder / "site"
    site.mkdir()
    source = Path(__file__).resolve().parents[1] / "fifth_tracker" / "json_folder" / "__init__.py"
    text = source.read_text(encoding="utf-8")
    method = "    def load(self) -> None:\n"
    assert text.count(method) == 1
    package = site / "json_folder"
    package.mkdir()
    lines = text.replace(method, f"{method}        {before_load}\n", 1)
    (package / "__init__.py").write_text(lines, encoding="utf-8")
    metadata = site / "json_folder-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: json-folder\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[tracelet_otel_tracker]\njson_folder = json_folder:JsonFolderTracker\n"
    )
    return str(site)
