"""Where and with what a run runs, in MLflow's own tags, and whole as a file.

The run's page shows the tags as "Source", "Created by" and the commit. The files are
``tracelet/environment.json``, the record as it is, and ``tracelet/requirements.txt``, which pip reads. Ranks
above 0 and earlier attempts of a resumed run have files of their own; the tags are those of the latest.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from typing import Any, Final

from tracelet_otel.otlp.records import Record
from tracelet_otel.semconv import RANK
from tracelet_otel_exporters.mlflow import artifacts
from tracelet_otel_exporters.mlflow import runs as mlflow_runs
from tracelet_otel_exporters.mlflow.connection import Connection
from tracelet_otel_exporters.mlflow.runs import OpenRun
from tracelet_otel_exporters.shared.environment_record import part, requirements

FOLDER: Final = "tracelet"


def write(connection: Connection, run: OpenRun, record: Record, environment: Mapping[str, Any]) -> None:
    """Writes an environment record; every part of it may be missing."""
    rank = record.attributes.get(RANK)
    is_first = not isinstance(rank, int) or rank == 0
    files = {"environment.json": record.read()}
    if packages := requirements(environment):
        files["requirements.txt"] = packages.encode()
    for name, content in files.items():
        stem, ending = posixpath.splitext(name)
        path = f"{FOLDER}/{stem}{'' if is_first else f'_rank_{rank}'}{ending}"
        if run.is_resumed or path in run.files:
            before = artifacts.read(connection, run, path)
            if before not in (None, content):
                digest = hashlib.sha256(before or b"").hexdigest()[:16]
                artifacts.write(connection, run, f"{FOLDER}/{stem}-{digest}{ending}", before or b"")
        artifacts.write(connection, run, path, content)
        run.files[path] = ""
    if is_first and (tags := _tags(environment)):
        mlflow_runs.set_tags(connection, run, mlflow_runs.valid_tags(run, tags))


def _tags(environment: Mapping[str, Any]) -> dict[str, str]:
    """By MLflow's names, see ``mlflow/utils/mlflow_tags.py``."""
    git, host = part(environment, "git"), part(environment, "host")
    tags = {
        "mlflow.source.name": environment.get("entry_point"),
        "mlflow.source.type": "LOCAL" if environment.get("entry_point") else None,
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.branch": git.get("branch"),
        "mlflow.source.git.repoURL": git.get("repository"),
        "mlflow.source.git.dirty": str(git["dirty"]).lower() if "dirty" in git else None,
        "mlflow.user": host.get("user"),
    }
    return {name: str(value) for name, value in tags.items() if value}
