"""Which repository is meant, on disk or behind a server."""

from __future__ import annotations

import os
from pathlib import Path

from tracelet_otel.foundation.errors import PermanentError
from tracelet_otel_exporters.aim import private
from tracelet_otel_exporters.aim.local_repository import LocalRepository
from tracelet_otel_exporters.aim.local_store import LocalStore
from tracelet_otel_exporters.aim.remote import RemoteRepository, RemoteStore

Repository = LocalRepository | RemoteRepository
Store = LocalStore | RemoteStore
"""One run in a repository."""


def find(repo: str | None, folder: Path) -> Repository:
    """The repository of this name, as AIM itself would find it from the current folder ``folder``.

    Raises:
        PermanentError: it is neither a folder nor a server.
    """
    if repo is None:
        search = private.SEARCH.get()
        found, is_there = search(str(folder)) if search else ("", False)
        return LocalRepository(found if is_there else str(folder))
    if repo.startswith("aim://"):
        return RemoteRepository(repo)
    if "://" in repo:
        raise PermanentError(f"AIM repository {repo!r}: a folder or aim://host:port is needed")
    path = repo if repo.startswith("~") else str(folder / repo)
    return LocalRepository(private.CLEAN_PATH.get(default=os.path.expanduser)(path))
