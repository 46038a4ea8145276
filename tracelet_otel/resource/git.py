"""Which commit the running script is of, asked of ``git`` itself.

Nothing here goes to the network, waits for input, writes to the repository or takes its locks. Each question
is given up after :data:`TIMEOUT_S`; a missing git, and a folder that is not a repository, are not errors.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from opentelemetry.sdk.resources import Resource, ResourceDetector

from tracelet_otel.secrets.redaction import redacted_url

TIMEOUT_S: Final = 2.0
"""For commit, branch and remote together, and once more for the search for changes."""

_ENVIRONMENT: Final = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PAGER": "cat",
    "LC_ALL": "C",
}


def describe(folder: str | os.PathLike[str], *, with_changes: bool = True) -> dict[str, Any]:
    """``commit``, ``branch``, ``repository``, ``root`` and ``dirty`` of the repository around ``folder``.

    What git does not answer, or not in time, is left out: ``branch`` where a commit is checked out by
    itself, ``dirty`` where a large repository takes too long. Starts up to five processes, one after the
    other; takes some 20 ms.

    Args:
        folder: anywhere in the work tree.
        with_changes: whether to look for changed files that git tracks, for ``dirty``.

    Returns:
        Empty without git or outside of a repository.
    """
    deadline = time.monotonic() + TIMEOUT_S
    root = _ask(folder, deadline, "rev-parse", "--show-toplevel")
    if not root:
        return {}
    found: dict[str, Any] = {
        "commit": _ask(folder, deadline, "rev-parse", "--verify", "--quiet", "HEAD"),
        "branch": _ask(folder, deadline, "symbolic-ref", "--short", "--quiet", "HEAD"),
        "repository": redacted_url(_remote(folder, deadline)),
        "root": root,
    }
    if with_changes:
        deadline = time.monotonic() + TIMEOUT_S
        changes = _ask(folder, deadline, "status", "--porcelain", "--untracked-files=no")
        found["dirty"] = None if changes is None else bool(changes)
    return {name: value for name, value in found.items() if value not in (None, "")}


class GitResourceDetector(ResourceDetector):
    """Adds ``vcs.*`` to the resource, by OpenTelemetry's conventions for version control.

    For the entry point ``tracelet_git``. Without ``dirty``, for which there is no convention, so it asks only
    what git answers at once; where git is slow all the same, for two seconds at most, and then without it.
    """

    def detect(self) -> Resource:
        """The attributes, or none. Raises nothing."""
        try:
            found = describe(Path.cwd(), with_changes=False)
        except OSError:  # a folder that was deleted
            return Resource.get_empty()
        return Resource(attributes(found))


def attributes(found: dict[str, Any]) -> dict[str, str]:
    """What :func:`describe` found, by OpenTelemetry's names."""
    named = {
        "vcs.ref.head.revision": found.get("commit"),
        "vcs.ref.head.name": found.get("branch"),
        "vcs.ref.head.type": "branch" if found.get("branch") else None,
        "vcs.repository.url.full": found.get("repository"),
    }
    return {name: str(value) for name, value in named.items() if value}


def _remote(folder: str | os.PathLike[str], deadline: float) -> str:
    """The URL of ``origin``, else of the first remote."""
    if url := _ask(folder, deadline, "remote", "get-url", "origin"):
        return url
    names = (_ask(folder, deadline, "remote") or "").splitlines()
    return (_ask(folder, deadline, "remote", "get-url", names[0]) or "") if names else ""


def _ask(folder: str | os.PathLike[str], deadline: float, *question: str) -> str | None:
    """What git prints, or None where it fails, is missing, or is not done by the deadline."""
    timeout = deadline - time.monotonic()
    if timeout <= 0:
        return None
    # A repository's own settings could have git start a program to watch its files.
    command = ["git", "-C", os.fspath(folder), "-c", "core.fsmonitor=false", *question]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
            env={**os.environ, **_ENVIRONMENT},
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
