"""Parts of the payload of an environment record, of which each may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast


def part(environment: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object of that name, such as ``git`` or ``host``; an empty one where it is missing."""
    value: object = environment.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def requirements(environment: Mapping[str, Any], separator: str = "==") -> str:
    """The installed packages as pip's requirements, a line each."""
    packages = sorted(part(environment, "packages").items())
    return "".join(f"{name}{separator}{version}\n" for name, version in packages)
