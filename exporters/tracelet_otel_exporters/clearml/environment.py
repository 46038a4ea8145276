"""Where and with what a run runs, in ClearML's own places: the task's script and its host panel."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tracelet_otel_exporters.clearml import runs as clearml_runs
from tracelet_otel_exporters.clearml.connection import Connection
from tracelet_otel_exporters.clearml.runs import OpenRun
from tracelet_otel_exporters.shared.environment_record import part, requirements

_GB: Final = 1024.0**3


def write(connection: Connection, run: OpenRun, environment: Mapping[str, Any]) -> None:
    """Writes an environment record; every part of it may be missing."""
    if script := _script(environment):
        clearml_runs.edit(connection, run, "edit", script=script)
    if machine := _machine(environment):
        found = connection.call("tasks", "get_by_id", task=run.id)["task"]
        # the whole of it is replaced, and the user's own entries are to stay
        clearml_runs.edit(connection, run, "edit", runtime={**(found.get("runtime") or {}), **machine})


def _script(environment: Mapping[str, Any]) -> dict[str, object]:
    git, python = part(environment, "git"), part(environment, "python")
    script: dict[str, object] = {
        "repository": git.get("repository"),
        "branch": git.get("branch"),
        "version_num": git.get("commit"),
        "entry_point": environment.get("entry_point"),
        "working_dir": environment.get("working_dir"),
        "binary": posixpath.basename(str(python.get("executable") or "")) or None,
    }
    if packages := requirements(environment, " == "):
        header = f"# Python {python['version']}\n\n" if python.get("version") else ""
        script["requirements"] = {"pip": header + packages, "conda": ""}
    return {name: value for name, value in script.items() if value}


def _machine(environment: Mapping[str, Any]) -> dict[str, object]:
    """By the names of ``clearml/utilities/resource_monitor.py: _get_machine_specs``."""
    host, python = part(environment, "host"), part(environment, "python")
    machine: dict[str, object] = {
        "hostname": host.get("name"),
        "OS": host.get("os"),
        "cpu_cores": host.get("cpu_count"),
        "memory_gb": _gigabytes(host.get("memory_bytes")),
        "python_version": python.get("version"),
        "python_exec": python.get("executable"),
        "CLI": " ".join(str(word) for word in environment.get("command") or ()),
    }
    gpus: Sequence[Mapping[str, Any]] = environment.get("gpus") or ()
    if gpus:
        machine["gpu_count"] = len(gpus)
        machine["gpu_type"] = ", ".join(str(gpu.get("name", "")) for gpu in gpus)
        machine["gpu_memory"] = ", ".join(f"{round(gpu.get('memory_bytes', 0) / _GB)}GB" for gpu in gpus)
    return {name: value for name, value in machine.items() if value}


def _gigabytes(size: object) -> float | None:
    return round(size / _GB, 1) if isinstance(size, (int, float)) else None
