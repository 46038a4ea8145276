"""Secrets are planted wherever a script may have one; none of them is stored or printed anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.otlp.receiver import Inbox, receiver
from tests.resource.test_environment import run_git
from tests.support.agents import Agents
from tests.support.scripts import script_command, write_script
from tests.support.subject import Subject
from tests.support.trackers import backends, subjects_in
from tracelet_otel.delivery.spool.reading import folders, read

RUN = "secrets"
TOKENS = {
    name: f"canary{index}{name.title().replace('_', '')}9Z"
    for index, name in enumerate(
        (
            *("option", "assignment", "url_argument", "default", "variable", "listed_variable", "resource"),
            *("tag", "remote", "hparam", "deep_hparam", "hparam_url", "logged_param", "list_param"),
            *("span_exception", "log_message", "log_attribute", "log_exception"),
        )
    )
}
"""Where a secret is planted, and what it is there."""
LITERAL = "canaryInTheSource9Z"
"""In a line of the script, which tracebacks show."""
WANDB_KEY = "c0ffee" * 6 + "9999"
"""40 hexadecimal digits, as W&B wants them."""
VISIBLE = ("visible-argument", "visible-hparam", "visible-param")
"""What is no secret and must be found in each tracker: the search can find."""
SCRIPT = f"""
import argparse, json, os, sys
from pathlib import Path

import tracelet_otel
from opentelemetry import trace
from opentelemetry._logs import LogRecord, get_logger_provider
from tensorboardX import SummaryWriter

TOKEN = json.loads(Path("tokens.json").read_text())
parser = argparse.ArgumentParser()
parser.add_argument("--api-key")
parser.add_argument("--hf-token")
parser.add_argument("--database")
parser.add_argument("--db-password", default=TOKEN["default"])
parser.add_argument("--note")
parser.parse_args()
backends = json.loads(Path("backends.json").read_text())
tracelet_otel.configure(backends=backends, run_id="{RUN}", run_name="name")

with SummaryWriter("logs") as writer:
    writer.add_scalar("loss", 0.5, 0)
    hparams = {{"api_key": TOKEN["hparam"], "token_dim": 64, "visible": "visible-hparam",
               "data": "s3://me:" + TOKEN["hparam_url"] + "@bucket/data"}}
    writer.add_hparams(hparams, {{"accuracy": 0.5}})
tracelet_otel.log_params({{
    "password": TOKEN["logged_param"], "shown": "visible-param",
    "model": {{"hub": {{"hub_token": TOKEN["deep_hparam"], "dim": 3}}}},
    "access_tokens": [TOKEN["list_param"]],
}})
try:
    with trace.get_tracer("user").start_as_current_span("visible-span"):
        raise RuntimeError("postgresql://me:" + TOKEN["span_exception"] + "@db password={LITERAL}")
except RuntimeError:
    pass
get_logger_provider().get_logger("user").emit(LogRecord(
    body="visible-log: Authorization: Bearer " + TOKEN["log_message"],
    attributes={{"session.token": TOKEN["log_attribute"],
                "exception.message": "api_key=" + TOKEN["log_exception"]}},
))
tracelet_otel.shutdown()
"""


@pytest.fixture
def subjects(tmp_path: Path, database: Path) -> Iterator[dict[str, Subject]]:
    with subjects_in(tmp_path, database) as made:
        yield made


def planted() -> set[bytes]:
    return {token.encode() for token in (*TOKENS.values(), LITERAL, WANDB_KEY)}


def stored_files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spooled(folder: Path) -> bytes:
    """The requests of every spool below a folder: payloads are in base64 in its files."""
    batches = [batch for spool in folders(folder) for batch in read(spool)]
    parts = [part for batch in batches for part in (batch.metrics, batch.logs)]
    return b"".join(part for part in parts if isinstance(part, bytes))


def aim_content(subject: Any) -> str:
    """All of the run: AIM's files are compressed."""
    run = subject._run(RUN)
    media = [item.content for item in subject.media(RUN)]
    return repr((run.meta.collect(), media, subject.files(RUN), vars(run.props)))


def everything(tmp_path: Path, subjects: Mapping[str, Any], inbox: Inbox, agents: Agents) -> dict[str, bytes]:
    """What was stored, by where."""
    found = {
        **{name: b"".join(stored_files(tmp_path / name).values()) for name in ("mlflow", "wandb")},
        "aim files": b"".join(stored_files(tmp_path / "aim").values()),
        "aim": aim_content(subjects["aim"]).encode(),
        "clearml": repr(vars(subjects["clearml"].server.store)).encode(),
        "file": spooled(tmp_path / "kept"),
        "otlp": b"".join(request.SerializeToString() for request in inbox.requests),
        "state": b"".join(stored_files(tmp_path / "state").values()),
        "temporary": b"".join(stored_files(agents.folder).values()),
    }
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_secret_is_in_a_tracker_a_spool_a_span_or_a_line(
    tmp_path: Path, subjects: dict[str, Subject], agents: Agents
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    run_git(tmp_path, "init", "-q", "-b", "main", str(folder))
    run_git(folder, "remote", "add", "origin", f"https://me:{TOKENS['remote']}@example.org/repo.git")
    (folder / "tokens.json").write_text(json.dumps(TOKENS))
    arguments = [
        *("--api-key", TOKENS["option"], f"--hf-token={TOKENS['assignment']}", "--note=visible-argument"),
        *("--database", f"mysql://me:{TOKENS['url_argument']}@host/db"),
    ]
    variables = {
        "AWS_SECRET_ACCESS_KEY": TOKENS["variable"],
        "MLFLOW_TRACKING_PASSWORD": TOKENS["variable"],
        "WANDB_API_KEY": WANDB_KEY,
        "NCCL_SOCKET_IFNAME": f"https://me:{TOKENS['listed_variable']}@host",
        "OTEL_RESOURCE_ATTRIBUTES": f"deployment.token={TOKENS['resource']}",
        "OTEL_TRACES_EXPORTER": "console",
        "TRACELET_TAGS": f"hub_token={TOKENS['tag']},team=visible-tag",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    with receiver("http/protobuf") as inbox:
        asked: dict[str, dict[str, Any]] = {
            **backends(tmp_path),
            "file": {"path": str(tmp_path / "kept")},
            "otlp": {"endpoint": inbox.endpoint, "protocol": "http/protobuf"},
        }
        (folder / "backends.json").write_text(json.dumps(asked))
        done = subprocess.run(
            script_command(write_script(folder, SCRIPT), *arguments),
            cwd=folder,
            env=agents.environment(**variables),
            capture_output=True,
            check=False,
        )
        agents.wait_until_gone()
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr.count(b"delivered all") == len(asked), done.stderr.decode()
        found = everything(tmp_path, subjects, inbox, agents)
    found |= {"stdout": done.stdout, "stderr": done.stderr}

    for name in ("mlflow", "wandb", "aim", "clearml", "file", "otlp"):
        missing = [text for text in (*VISIBLE, "visible-tag") if text.encode() not in found[name]]
        assert not missing, (name, missing)
    assert b"visible-span" in found["stdout"]
    assert b"visible-log" in found["otlp"]
    leaks = {name: [token for token in planted() if token in content] for name, content in found.items()}
    assert not any(leaks.values()), leaks
    params = subjects["mlflow"].params(RUN)
    assert params["api_key"] == "***"
    assert params["token_dim"] == "64"
    assert params["model/hub/dim"] == "3"
    assert params["data"] == "s3://***@bucket/data"


DOWN = """
import sys, tracelet_otel
url = sys.argv[1]
options = {"mlflow": {"tracking_uri": url}, "otlp": {"endpoint": url, "protocol": "http/protobuf"}}
tracelet_otel.configure(backends=options)
tracelet_otel.log_scalar("loss", 0.5, 0)
"""


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_errors_of_a_tracker_that_is_away_hide_the_password_of_its_url(
    tmp_path: Path, agents: Agents, isolation: str
) -> None:
    token = "canaryOfTheServer9Z"
    variables = {
        "TRACELET_SHUTDOWN_TIMEOUT": "1",
        "TRACELET_ISOLATION": isolation,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    done = subprocess.run(
        [sys.executable, str(write_script(tmp_path, DOWN)), f"http://me:{token}@127.0.0.1:9"],
        cwd=tmp_path,
        env=agents.environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    agents.wait_until_gone()
    assert done.returncode == 0
    assert "mlflow: captured 1 point" in done.stderr
    assert "127.0.0.1" in done.stderr
    left = {**stored_files(tmp_path / "state"), **stored_files(agents.folder)}
    left["spools"] = spooled(tmp_path / "state")
    assert b"loss" in left["spools"]
    assert token not in done.stderr
    assert not [path for path, content in left.items() if token.encode() in content]
