"""ClearML's own package, and the user's use of it, beside ours: in processes of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clearml_server import ClearMLServer
from tests.support.scripts import run_script

_SNAPSHOT = """
import argparse, atexit, builtins, io, logging, os, signal, sys, threading

def snapshot():
    loggers = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    return {
        "argparse": dict(vars(argparse.ArgumentParser)), "argparse module": dict(vars(argparse)),
        "os": dict(vars(os)), "builtins": dict(vars(builtins)), "environment": dict(os.environ),
        "sys": {n: getattr(sys, n) for n in ("excepthook", "exit", "stdout", "stderr", "argv")},
        "signals": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "threads": [thread.name for thread in threading.enumerate()],
        "thread": dict(vars(threading.Thread)), "thread hook": threading.excepthook,
        "logging": {l.name: (list(l.handlers), list(l.filters), l.level) for l in loggers
                    if isinstance(l, logging.Logger) and (l.handlers or l.filters)},
        "clearml": sorted(name for name in sys.modules if name.split(".")[0] == "clearml"),
    }
"""

_OURS = """
import time
from tracelet_otel.otlp.records import Point, Record, RunInfo, Series
from tracelet_otel_exporters.clearml.tracker import ClearMLTracker

def ours():
    tracker = ClearMLTracker()
    tracker.load()
    tracker.connect()
    tracker.open_run(RunInfo("ours", "ours", "project"))
    tracker.write_points("ours", [Series("ours", "loss", [Point(1, 1.0, time.time_ns())])])
    tracker.write_record(Record("ours", "image", "i", 1, 0, {}, "image/png", b"png"))
    tracker.close_run("ours", "finished")
    tracker.close()
"""

_USERS = """
import sys
sys.argv += ["--lr", "0.5"]

def users():
    import argparse
    import clearml
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    quiet = dict(auto_resource_monitoring=False, auto_connect_streams=False, auto_connect_frameworks=False)
    task = clearml.Task.init("project", "users", **quiet)
    parser.parse_args()
    task.get_logger().report_scalar("title", "series", value=2.0, iteration=1)
    return task
"""


@pytest.fixture
def server() -> Iterator[ClearMLServer]:
    made = ClearMLServer()
    yield made
    made.close()


def run(folder: Path, server: ClearMLServer, code: str) -> subprocess.CompletedProcess[str]:
    variables = {**server.variables(), "HOME": str(folder)}
    done = run_script(folder, code, zero_code=False, variables=variables)
    assert done.returncode == 0, done.stderr
    return done


def test_the_process_is_as_it_was(tmp_path: Path, server: ClearMLServer) -> None:
    code = """
import requests, tracelet_otel, tracelet_otel_exporters.clearml.tracker
before, exits = snapshot(), atexit._ncallbacks()
assert before["clearml"] == []
import urllib3.util.retry as retry
backoff = retry.Retry.DEFAULT_BACKOFF_MAX
ours()
after = snapshot()
added = {"requests", "charset_normalizer", "urllib3"}  # their own null handlers, where they are new
for name, value in before.items():
    if name == "logging":
        after[name] = {n: v for n, v in after[name].items() if n in value or n not in added}
    assert after[name] == value, (name, value, after[name])
assert retry.Retry.DEFAULT_BACKOFF_MAX == backoff
assert atexit._ncallbacks() - exits <= 1, atexit._ncallbacks() - exits  # weakref's own, once
"""
    done = run(tmp_path, server, _SNAPSHOT + _OURS + code)
    assert (done.stdout, done.stderr) == ("", "")
    [task] = server.store.tasks.values()
    assert task["status"] == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("order", ["ours(); task = users()", "task = users(); ours()"])
def test_the_users_own_task_is_as_without_us(tmp_path: Path, server: ClearMLServer, order: str) -> None:
    code = f"{order}\nimport clearml\nassert clearml.Task.current_task() is task\ntask.close()\n"
    run(tmp_path, server, _OURS + _USERS + code)
    tasks = {task["name"]: task for task in server.store.tasks.values()}
    assert sorted(tasks) == ["ours", "users"]
    assert tasks["users"]["hyperparams"]["Args"]["lr"]["value"] == "0.5"
    assert "Args" not in tasks["ours"]["hyperparams"]
    assert {task["status"] for task in tasks.values()} == {"completed"}
    scalars = server.store.events["training_stats_scalar"].values()
    assert sorted((event["task"], event["metric"], event["value"]) for event in scalars) == sorted(
        [(tasks["ours"]["id"], "loss", 1.0), (tasks["users"]["id"], "title", 2.0)]
    )
    assert [event["task"] for event in server.store.events["training_debug_image"].values()] == [
        tasks["ours"]["id"]
    ]


def test_credentials_that_the_user_set_in_code_are_used(tmp_path: Path, server: ClearMLServer) -> None:
    variables = server.variables()
    code = f"""
import os
for name in {list(variables)}:
    del os.environ[name]
import clearml
clearml.Task.set_credentials(
    api_host={variables["CLEARML_API_HOST"]!r}, web_host={variables["CLEARML_WEB_HOST"]!r},
    files_host={variables["CLEARML_FILES_HOST"]!r}, key={variables["CLEARML_API_ACCESS_KEY"]!r},
    secret={variables["CLEARML_API_SECRET_KEY"]!r},
)
ours()
"""
    run(tmp_path, server, _OURS + code)
    assert [task["name"] for task in server.store.tasks.values()] == ["ours"]
