"""Tries one backend with its real client, in this process: ``python -m tracelet_otel.cli.probe``.

The process is a child of ``tracelet-otel doctor``, in a temporary folder, so that whatever a client writes,
patches or leaves hanging goes away with it. Nothing that is not there yet is created.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

from tracelet_otel.backends.deliveries import make_file, make_tracker
from tracelet_otel.backends.names import FILE, TRACKER_GROUP
from tracelet_otel.backends.standard_exporters import StandardExporters
from tracelet_otel.delivery.otlp.forward import NAMES, Forward
from tracelet_otel.foundation import entry_points as installed
from tracelet_otel.foundation.errors import DeliveryError, TransientError
from tracelet_otel.settings import ConfigurationError


class Answer(TypedDict):
    """What became of it."""

    state: Literal["ok", "new", "unreachable", "refused", "unusable"]
    """``new``: there is nothing yet, it will be created. ``unreachable``: it may work later. ``refused``: it
    is there and does not work. ``unusable``: it is not installed or not set up."""
    detail: str


def probe(name: str, options: Mapping[str, Any], folder: Path, spools: Path) -> Answer:
    """Tries a backend.

    Args:
        name: of the backend.
        options: of the backend.
        folder: that relative names in its options and its defaults are relative to.
        spools: folder of the spools, where backend ``file`` writes to.
    """
    try:
        if name == FILE:
            path = {key: folder / str(value) for key, value in options.items() if key == "path"}
            return _creatable(make_file(spools, {**options, **path}, 1).folder)
        if name in NAMES:
            return _try_receiver(name, options)
        entry_point = installed.find(TRACKER_GROUP, name)
        if entry_point is None:
            StandardExporters(name, options, frozenset({"metrics", "logs"})).load()
            return Answer(state="ok", detail="installed; it cannot be asked whether it works")
        make_tracker(name, entry_point, options)  # is it installed, does it take the options?
        location = _LOCATIONS.get(name, _unknown)
        options, answer = location(dict(options), folder)
        if answer is not None:
            return answer
        tracker = make_tracker(name, entry_point, options)
        try:
            tracker.load()
            tracker.connect()
        finally:
            tracker.close()
    except ConfigurationError as error:
        return Answer(state="unusable", detail=str(error))
    except TransientError as error:
        return Answer(state="unreachable", detail=str(error))
    except DeliveryError as error:
        return Answer(state="refused", detail=str(error))
    except Exception as error:  # a client's own
        return Answer(state="refused", detail=repr(error))
    return Answer(state="ok", detail="connected")


_Located = tuple[dict[str, Any], Answer | None]


def _unknown(options: dict[str, Any], folder: Path) -> _Located:
    return options, None


def _mlflow(options: dict[str, Any], folder: Path) -> _Located:
    """An absolute tracking URI; an answer if it is a database or a folder that is not there."""
    from tracelet_otel_exporters.mlflow.connection import import_mlflow, resolve

    import_mlflow()
    uri = resolve(options.get("tracking_uri"), folder)
    options["tracking_uri"] = uri
    scheme, _, path = uri.partition(":")
    if scheme.startswith("sqlite") and path.startswith("///"):
        path = path[3:].partition("?")[0]
        if path and path != ":memory:" and not Path(path).exists():
            return options, _creatable(Path(path))
    if scheme == "file":
        from urllib.parse import urlsplit
        from urllib.request import url2pathname

        path = url2pathname(urlsplit(uri).path)
        if not Path(path).exists():
            return options, _creatable(Path(path))
    return options, None


def _aim(options: dict[str, Any], folder: Path) -> _Located:
    """The repository's folder; an answer if it is not there."""
    repo = options.get("repo")
    if repo is not None and "://" in str(repo):
        return options, None
    if repo is None:
        # As AIM looks for it: the nearest folder with an ".aim".
        found = (item for item in (folder, *folder.parents) if (item / ".aim").is_dir())
        root = next(found, folder)
    else:
        root = folder / Path(repo).expanduser()
        root = root.parent if root.name == ".aim" else root
    options["repo"] = str(root)
    return options, None if (root / ".aim").exists() else _creatable(root / ".aim")


def _wandb(options: dict[str, Any], folder: Path) -> _Located:
    """The folder of offline runs must be writable."""
    wanted = folder / str(options.get("dir") or os.environ.get("WANDB_DIR") or folder)
    answer = _creatable(wanted / "wandb")
    # A cache and logs of the client that is about to be started, in this temporary folder.
    os.environ["WANDB_CACHE_DIR"] = os.environ["WANDB_DATA_DIR"] = str(Path.cwd())
    return options, answer if answer["state"] == "refused" else None


_LOCATIONS: Final[Mapping[str, Callable[[dict[str, Any], Path], _Located]]] = {
    "mlflow": _mlflow,
    "aim": _aim,
    "wandb": _wandb,
}
"""By backend: what its defaults depend on, and what does not exist before the first run."""


def _creatable(path: Path) -> Answer:
    if path.exists():
        writable = os.access(path, os.W_OK)
        return (
            Answer(state="ok", detail=f"{path} can be written to")
            if writable
            else Answer(state="refused", detail=f"{path} cannot be written to")
        )
    ancestor = next(item for item in path.parents if item.exists())
    if ancestor.is_dir() and os.access(ancestor, os.W_OK | os.X_OK):
        return Answer(state="new", detail=f"{path} will be created")
    return Answer(state="refused", detail=f"{path} cannot be created: {ancestor} cannot be written to")


def _try_receiver(name: str, options: Mapping[str, Any]) -> Answer:
    receiver = Forward(name, options)
    try:
        receiver.load()
        receiver.connect()
    finally:
        receiver.close()
    return Answer(state="ok", detail="took an empty request")


def main() -> None:
    """Reads the arguments of :func:`probe` as JSON, and writes the answer to a file."""
    given = json.loads(sys.argv[1])
    answer = probe(given["name"], given["options"], Path(given["folder"]), Path(given["spools"]))
    Path(given["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
