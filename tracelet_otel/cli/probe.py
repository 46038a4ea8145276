"""Tries one backend with its real client, in this process: ``python -m tracelet_otel.cli.probe``.

The process is a child of ``tracelet-otel doctor``, in a temporary folder, so that whatever a client writes,
patches or leaves hanging goes away with it. What does not exist yet is not created.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from tracelet_otel.backends.deliveries import make_file, make_tracker
from tracelet_otel.backends.names import FILE, TRACKER_GROUP
from tracelet_otel.backends.standard_exporters import StandardExporters
from tracelet_otel.delivery.delivery import BOTH
from tracelet_otel.delivery.otlp.forward import NAMES, Forward
from tracelet_otel.foundation.entry_points import find
from tracelet_otel.foundation.errors import DeliveryError, TransientError
from tracelet_otel.settings import ConfigurationError
from tracelet_otel.tracker.interface import LocalStorage, Tracker


class Reachability(TypedDict):
    """Whether a backend can be used."""

    state: Literal["ok", "new", "unreachable", "refused", "unusable"]
    """``new``: it does not exist yet and will be created. ``unreachable``: it may work later. ``refused``: it
    exists and does not work. ``unusable``: it is not installed or not set up."""
    detail: str


def probe(name: str, options: Mapping[str, Any], folder: Path, spools: Path) -> Reachability:
    """Tries a backend. What its client writes into the current folder goes there, and not into ``folder``.

    Args:
        name: of the backend.
        options: of the backend.
        folder: that relative names in its options and its defaults are relative to.
        spools: folder of the spools, where backend ``file`` writes to.
    """
    try:
        return _probe(name, options, folder, spools)
    except ConfigurationError as error:
        return Reachability(state="unusable", detail=str(error))
    except TransientError as error:
        return Reachability(state="unreachable", detail=str(error))
    except DeliveryError as error:
        return Reachability(state="refused", detail=str(error))
    except Exception as error:  # a client's own
        return Reachability(state="refused", detail=repr(error))


def _probe(name: str, options: Mapping[str, Any], folder: Path, spools: Path) -> Reachability:
    scratch = Path.cwd()
    os.chdir(folder)
    if name == FILE:
        return _writable(make_file(spools, options, 1).folder)
    if name in NAMES:
        _connect(Forward(name, options))
        return Reachability(state="ok", detail="took an empty request")
    entry_point = find(TRACKER_GROUP, name)
    if entry_point is None:
        exporters = StandardExporters(name, options, BOTH)
        os.chdir(scratch)
        exporters.load()
        return Reachability(state="ok", detail="installed; it cannot be asked whether it works")
    tracker = make_tracker(name, entry_point, options)  # which remembers the current folder
    os.chdir(scratch)
    local_storage: Callable[[], LocalStorage | None] | None = getattr(tracker, "local_storage", None)
    storage = local_storage() if local_storage is not None else None
    if storage is not None:
        found = _writable(storage.path)
        if found["state"] == "refused" or (found["state"] == "new" and storage.made_by_connect):
            return found
    _connect(tracker)
    return Reachability(state="ok", detail="connected")


def _connect(client: Tracker | Forward) -> None:
    try:
        client.load()
        client.connect()
    finally:
        client.close()


def _writable(path: Path) -> Reachability:
    if path.exists():
        if os.access(path, os.W_OK):
            return Reachability(state="ok", detail=f"{path} can be written to")
        return Reachability(state="refused", detail=f"{path} cannot be written to")
    ancestor = next(item for item in path.parents if item.exists())
    if ancestor.is_dir() and os.access(ancestor, os.W_OK | os.X_OK):
        return Reachability(state="new", detail=f"{path} will be created")
    return Reachability(state="refused", detail=f"{path} cannot be created: {ancestor} cannot be written to")


def main() -> None:
    """Reads the arguments of :func:`probe` as JSON, and writes what it returns to a file."""
    given = json.loads(sys.argv[1])
    found = probe(given["name"], given["options"], Path(given["folder"]), Path(given["spools"]))
    Path(given["answer"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
