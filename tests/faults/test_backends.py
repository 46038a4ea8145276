"""A backend in trouble: nothing is lost, the other backend has everything, and training ends in time."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.faults.checker import check
from tests.faults.conftest import ClearMLPlace, Server
from tests.faults.evidence import FilePlace, Place, entries, waiting
from tests.faults.trial import RUN_ID, Trial
from tests.support.mlflow_server import Proxy
from tests.support.mlflow_subject import MLflowSubject

LOG = """
import os, sys, time
import tracelet_otel
import journal
journal.log("loss", range(2_000))
"""
TROUBLES = {
    "refuses connections": "http://127.0.0.1:1",
    "never answers": "hangs",
    "answers 403": "403",
    "answers 500": "500",
}


def check_replayed(trial: Trial, places: dict[str, Place], name: str) -> None:
    """The tracker has everything after a replay, which removes what waited."""
    trial.replay(name)
    assert not waiting(trial.state, name, RUN_ID)
    check(trial, {name: places[name]})


def check_left_and_replayed(trial: Trial, places: dict[str, Place], name: str) -> None:
    """Everything waits for the tracker, ``file`` has it, and the tracker after a replay."""
    lines = check(trial, places)
    logged, _ = entries(trial.folder)
    assert lines[name].left == len(logged)
    assert sum(map(len, waiting(trial.state, name, RUN_ID).values())) == len(logged)
    check_replayed(trial, places, name)


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_a_backend_that(trial: Trial, places: dict[str, Place], trouble: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, Proxy("").serving() as answers:
        uri = trouble
        if trouble == "hangs":
            uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        elif trouble.isdigit():
            answers.status, uri = int(trouble), answers.uri
        # Seconds; ours are 30, and the agent waits for a call that is under way.
        more = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
        trial.run(LOG + "journal.mark()", variables=more)
    check_left_and_replayed(trial, places, "mlflow")


IN_TWO_HALVES = """
import os, time
import tracelet_otel
import journal
journal.log("loss", range(1_000))
assert tracelet_otel.flush()
print("half", flush=True)
journal.log("loss", range(1_000, 2_000))
while not os.path.exists("go on"):
    time.sleep(0.01)
journal.log("loss", range(2_000, 3_000))
journal.mark()
"""


@pytest.mark.parametrize("returns", [False, True], ids=["dies", "dies and comes back"])
def test_a_server_that(
    trial: Trial, places: dict[str, Place], server: Server, proxy: Proxy, returns: bool
) -> None:
    """In the middle of a request, which it had carried out: nothing may be there twice."""
    trial.variables["TRACELET_RUN_ID"] = run_id = uuid.uuid4().hex
    places["mlflow"] = MLflowSubject(server.folder)
    trial.start(IN_TWO_HALVES, variables={"MLFLOW_TRACKING_URI": proxy.uri})
    assert trial.read_line() == "half"
    proxy.swallows = "/runs/log-batch"
    assert proxy.swallowed.wait(60)
    if returns:
        proxy.swallows, proxy.status = "", 0
    Path(trial.folder, "go on").touch()
    trial.wait()
    lines = check(trial, places, run_id=run_id, repeats=not returns)
    assert bool(lines["mlflow"].left) is not returns
    if not returns:
        trial.replay("mlflow", {"MLFLOW_TRACKING_URI": server.uri})
        assert not waiting(trial.state, "mlflow", run_id)
        check(trial, {"mlflow": places["mlflow"]}, run_id=run_id)


def test_a_server_that_says_when_to_come_back(
    trial: Trial, places: dict[str, Place], server: Server, proxy: Proxy
) -> None:
    """It is not asked before, and gets everything then."""
    trial.variables["TRACELET_RUN_ID"] = run_id = uuid.uuid4().hex
    places["mlflow"] = MLflowSubject(server.folder)
    proxy.retry_after = "2"
    trial.start(IN_TWO_HALVES, variables={"MLFLOW_TRACKING_URI": proxy.uri})
    assert trial.read_line() == "half"
    proxy.status = 429
    proxy.wait_until_refused(3)
    proxy.status = 0
    Path(trial.folder, "go on").touch()
    trial.wait()
    gaps = [later - at for at, later in pairwise(proxy.refused)]
    assert all(gap >= 2 for gap in gaps), gaps
    check(trial, places, run_id=run_id)


@pytest.fixture
def clearml(trial: Trial) -> Iterator[ClearMLPlace]:
    """In place of MLflow."""
    subject = ClearMLPlace(trial.folder)
    trial.variables.update(subject.server.variables(), OTEL_METRICS_EXPORTER="clearml,file")
    yield subject
    subject.close()


CLEARML_TROUBLES: dict[str, dict[str, Any]] = {
    "never answers": {"hang": True},
    "answers 403": {"status": 403},
    "answers 500": {"status": 500},
}


@pytest.mark.parametrize("trouble", CLEARML_TROUBLES.values(), ids=CLEARML_TROUBLES)
def test_a_clearml_that(trial: Trial, clearml: ClearMLPlace, trouble: dict[str, Any]) -> None:
    how = {**trouble, "hang": threading.Event()} if "hang" in trouble else trouble
    with clearml.server.fault(**how):
        trial.run(LOG + "journal.mark()")
    check_left_and_replayed(trial, {"clearml": clearml, "file": FilePlace(trial)}, "clearml")


@pytest.mark.parametrize("returns", [False, True], ids=["dies", "dies and comes back"])
def test_a_clearml_that_carried_out_a_request_and(trial: Trial, clearml: ClearMLPlace, returns: bool) -> None:
    places: dict[str, Place] = {"clearml": clearml, "file": FilePlace(trial)}
    trial.start(IN_TWO_HALVES)
    assert trial.read_line() == "half"
    with ExitStack() as until_the_end:
        with clearml.server.fault(drop=True, matches="add_batch", count=1) as fault:
            fault.wait_until_hit()
            away = clearml.server.fault(status=503)
            until_the_end.enter_context(away)
        if returns:
            until_the_end.close()
        Path(trial.folder, "go on").touch()
        trial.wait()
    lines = check(trial, places, repeats=not returns)
    assert bool(lines["clearml"].left) is not returns
    if not returns:
        check_replayed(trial, places, "clearml")


def test_a_clearml_that_says_when_to_come_back(trial: Trial, clearml: ClearMLPlace) -> None:
    """It is not asked before, and gets everything then."""
    trial.start(IN_TWO_HALVES)
    assert trial.read_line() == "half"
    with clearml.server.fault(status=429, headers={"Retry-After": "2"}) as fault:
        fault.wait_until_hit(3)
    Path(trial.folder, "go on").touch()
    trial.wait()
    gaps = [later - at for at, later in pairwise(fault.times)]
    assert all(gap >= 2 for gap in gaps), gaps
    check(trial, {"clearml": clearml, "file": FilePlace(trial)})


def test_a_queue_at_its_bound(trial: Trial, places: dict[str, Place]) -> None:
    """What memory has no place for goes through the spool, in order."""
    log = LOG.replace("2_000", "30_000")
    trial.run(log, variables={"OTEL_METRICS_EXPORTER": "mlflow", "TRACELET_MAX_QUEUE_BYTES": "20000"})
    check(trial, {"mlflow": places["mlflow"]})


def test_a_spool_at_its_bound(trial: Trial, places: dict[str, Place]) -> None:
    """What it has no place for is dropped, and the line says how much."""
    log = LOG.replace("range(2_000)", "range(20_000), pause=0.0001")
    more = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "TRACELET_MAX_SPOOL_BYTES": "800000"}
    trial.run(log, variables={**more, "OTEL_METRICS_EXPORTER": "mlflow"})
    mlflow = {"mlflow": places["mlflow"]}
    lines = check(trial, mlflow, drops=["mlflow"])
    assert lines["mlflow"].left
    trial.replay("mlflow")
    assert not waiting(trial.state, "mlflow", RUN_ID)
    check(trial, mlflow, drops=["mlflow"])
