"""From a backend's name and options to its delivery."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from os import PathLike
from pathlib import Path
from typing import Any, cast

from tracelet_otel.backends.names import COMPANIONS, FILE, SPOOLS, TRACKER_GROUP, available
from tracelet_otel.backends.standard_exporters import StandardExporters
from tracelet_otel.delivery.delivery import BOTH, Delivery
from tracelet_otel.delivery.destination import Destination
from tracelet_otel.delivery.file import FileDestination
from tracelet_otel.delivery.otlp.forward import NAMES, Forward
from tracelet_otel.delivery.routing import take_route
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.foundation.entry_points import find
from tracelet_otel.otlp.json import Signal
from tracelet_otel.otlp.records import RunInfo
from tracelet_otel.settings import ConfigurationError
from tracelet_otel.tracker.exporter import TrackerExporter
from tracelet_otel.tracker.interface import Tracker


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Checks the options of a backend of this distribution, without starting a delivery.

    Raises:
        ConfigurationError: it is not installed, or it does not take an option.
    """
    _, others = take_route(name, options)
    tracker = find(TRACKER_GROUP, name)
    if tracker is not None:
        make_tracker(name, tracker, others)
    elif name == FILE:
        make_file(Path(), others, 0)
    else:
        Forward(name, others)


def make_delivery(
    name: str,
    options: Mapping[str, Any],
    *,
    run: RunInfo,
    max_queue_bytes: int,
    state: Path,
    session: str,
    max_spool_bytes: int,
    signals: frozenset[Signal] = BOTH,
) -> Delivery:
    """Starts the delivery to one backend.

    Args:
        name: a tracker, ``otlp``, ``console`` or any installed OpenTelemetry exporter.
        options: the backend's own keyword arguments, and those of its
            :class:`~tracelet_otel.delivery.routing.Route`.
        run: the run that metrics of other instruments belong to.
        max_queue_bytes: bound of the delivery's queue.
        state: folder of spools and companion files.
        session: the name of this process's folder below it.
        max_spool_bytes: bound of the delivery's spool.
        signals: what to send, for backends other than trackers.

    Raises:
        ConfigurationError: there is no such backend, it is not installed, or it does not take an option.
    """
    route, options = take_route(name, options)
    folder = state / SPOOLS / session / name
    if name == FILE:
        destination: Destination = make_file(folder, options, max_spool_bytes)
        return Delivery(name, destination, max_queue_bytes=max_queue_bytes, route=route)
    if name in NAMES:
        return Delivery(
            name,
            Forward(name, options),
            max_queue_bytes=max_queue_bytes,
            spool=Spool(folder, max_bytes=max_spool_bytes),
            route=route,
            takes_all=True,
            signals=signals,
        )
    tracker = find(TRACKER_GROUP, name)
    if tracker is None:
        destination = StandardExporters(name, options, signals)
        return Delivery(name, destination, max_queue_bytes=max_queue_bytes, route=route, signals=signals)
    destination = TrackerExporter(
        make_tracker(name, tracker, options), run=run, companions=state / COMPANIONS / name
    )
    spool = Spool(folder, max_bytes=max_spool_bytes)
    return Delivery(name, destination, max_queue_bytes=max_queue_bytes, spool=spool, route=route)


def make_file(folder: Path, options: Mapping[str, Any], max_bytes: int) -> FileDestination:
    """Backend ``file``; its option ``path`` is the folder to write to, instead of the spool's.

    Raises:
        ConfigurationError: there are other options, or ``path`` is not a path.
    """
    path = options.get("path", folder)
    if options.keys() - {"path"} or not isinstance(path, (str, PathLike)):
        raise ConfigurationError(f"backend 'file' takes path, the name of a folder; got {dict(options)!r}")
    return FileDestination(Path(cast("str", path)).absolute(), max_bytes=max_bytes)


def make_tracker(name: str, entry_point: EntryPoint, options: Mapping[str, Any]) -> Tracker:
    """The client of a tracker; only its class is imported.

    Raises:
        ConfigurationError: its library is not installed, or it does not take an option.
    """
    tracker_class = entry_point.load()
    if importlib.util.find_spec(tracker_class.library) is None:
        raise ConfigurationError(
            f"backend {name!r} needs the package {tracker_class.library}: "
            f"pip install 'tracelet-otel[{name}]', or choose among {', '.join(available())}"
        )
    try:
        return tracker_class(**options)
    except TypeError as error:
        raise ConfigurationError(f"backend {name!r} does not take these options: {error}") from error
