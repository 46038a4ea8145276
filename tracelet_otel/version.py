"""The version of this distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _installed_version() -> str:
    try:
        return version("tracelet-otel")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0.0.0"


VERSION = _installed_version()
