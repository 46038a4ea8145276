"""The environment record in the form of AIM's own ``__system_params`` (aim/ext/utils.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast


def system_params(environment: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """AIM's form of the record, and what has no place in it."""
    rest = dict(environment)
    native: dict[str, Any] = {}
    if packages := _part(rest, "packages"):
        native["packages"] = packages
    if variables := _part(rest, "variables"):
        native["env_variables"] = variables
    git = _part(rest, "git")
    if git:
        native["git_info"] = {
            "branch": git.pop("branch", None),
            "remote_origin_url": git.pop("repository", None),
            "commit": {"hash": git.pop("commit", None), "timestamp": None, "author": None},
        }
    python = _part(rest, "python")
    if executable := python.pop("executable", None):
        native["executable"] = executable
    if command := rest.pop("command", None):
        native["arguments"] = command
    rest.update({name: part for name, part in (("git", git), ("python", python)) if part})
    return native, rest


def _part(environment: dict[str, Any], name: str) -> dict[str, Any]:
    value = environment.get(name)
    if not isinstance(value, dict):
        return {}
    del environment[name]
    return dict(cast("dict[str, Any]", value))
