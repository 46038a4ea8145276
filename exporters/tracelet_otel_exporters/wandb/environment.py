"""Where and with what a run runs, as W&B's own ``wandb-metadata.json`` has it.

Source of its fields: ``EnvironmentRecord`` in ``wandb_internal.proto``, which ``wandb-core`` writes to that
file as protobuf's JSON; W&B shows them on the run's overview.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, cast

from tracelet_otel_exporters.shared.environment_record import part

METADATA_FILE = "wandb-metadata.json"
PACKAGES_FILE = "requirements.txt"


def metadata(environment: Mapping[str, Any], time_unix_nano: int) -> dict[str, Any]:
    """The content of ``wandb-metadata.json`` for an environment record."""
    host, git, python = (part(environment, name) for name in ("host", "git", "python"))
    gpus = [cast("dict[str, Any]", gpu) for gpu in environment.get("gpus") or () if isinstance(gpu, dict)]
    command = [str(part) for part in environment.get("command") or ()]
    started = datetime.fromtimestamp(time_unix_nano / 1e9, timezone.utc)
    found: dict[str, Any] = {
        "os": host.get("os"),
        "python": python.get("version"),
        "executable": python.get("executable"),
        "startedAt": started.isoformat().replace("+00:00", "Z"),
        "program": environment.get("entry_point"),
        "args": command[1:],
        "root": environment.get("working_dir"),
        "host": host.get("name"),
        "git": {"remote": git.get("repository"), "commit": git.get("commit"), "branch": git.get("branch")},
        "cpu_count_logical": host.get("cpu_count"),
        "memory": {"total": _text(host.get("memory_bytes"))},
        "gpu": gpus[0].get("name") if gpus else None,
        "gpu_count": len(gpus) or None,
        "gpu_nvidia": [
            {"name": gpu.get("name"), "memoryTotal": _text(gpu.get("memory_bytes"))} for gpu in gpus
        ],
    }
    return cast("dict[str, Any]", _given(found))


def _given(value: object) -> object:
    """Without what is not given."""
    if isinstance(value, dict):
        members = {name: _given(member) for name, member in cast("dict[str, object]", value).items()}
        return {name: member for name, member in members.items() if member not in (None, {}, [])}
    if isinstance(value, list):
        return [_given(member) for member in cast("list[object]", value)]
    return value


def _text(value: object) -> str | None:
    # protobuf's JSON has 64-bit integers as text
    return None if value is None else str(value)
