"""Which backends run in an agent, and the delivery to that agent."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracelet_otel.backends.deliveries import check_options
from tracelet_otel.backends.names import SPOOLS, is_tracker
from tracelet_otel.delivery.routing import take_route
from tracelet_otel.delivery.spool.spool import Spool
from tracelet_otel.settings import Settings

if TYPE_CHECKING:
    from tracelet_otel.agent.delivery import AgentDelivery


def isolated(named: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The backends whose clients run in an agent, with their options in JSON's types.

    These are the trackers. The others stay in the training process: exporters of OpenTelemetry take the SDK's
    own objects or write to training's output, ``file`` has no client, and some trackers have options that
    cannot be given to another process.
    """
    if sys.platform == "win32":  # no Unix sockets
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, options in named.items():
        if is_tracker(name):
            try:
                found[name] = json.loads(json.dumps(dict(options), default=_plain))
            except (TypeError, ValueError):
                continue
    return found


def make_delivery(
    named: Mapping[str, Mapping[str, Any]],
    settings: Settings,
    *,
    run_id: str,
    state: Path,
    session: str,
    ends_runs: Callable[[], bool],
) -> AgentDelivery:
    """The delivery to the agent of these backends, see :func:`isolated`. The first value starts the agent.

    ``session`` is the name of this session's folder among the spools. ``ends_runs``: whether the end of this
    process is the end of the runs that it writes.

    Raises:
        ConfigurationError: a backend does not exist or cannot be used.
        DeliveryError: there is no folder for the agent's socket.
    """
    from tracelet_otel.agent.address import SPOOL_PREFIX, address_of
    from tracelet_otel.agent.client import AgentClient
    from tracelet_otel.agent.delivery import AgentDelivery

    for name, options in named.items():
        check_options(name, options)  # an error belongs here, not into the agent's log
    try:
        folder = os.getcwd()  # noqa: PTH109 - a text
    except OSError:  # it was deleted
        folder = "/"
    config = {
        "backends": named,
        "state": str(state),
        "max_queue_bytes": settings.max_queue_bytes,
        "max_spool_bytes": settings.max_spool_bytes,
    }
    address = address_of(run_id, named, state, folder)
    spools = state / SPOOLS / f"{SPOOL_PREFIX}{address.key}"
    client = AgentClient(address, config, folder, ends_runs, spools, settings.shutdown_timeout)
    routes = {name: take_route(name, options)[0] for name, options in named.items()}
    # One name for all backends. By it replay finds what waits for a backend, and which part of it.
    spool = Spool(
        state / SPOOLS / session / "+".join(named),
        max_bytes=settings.max_spool_bytes,
        routes={name: route.options for name, route in routes.items() if not route.takes_all},
    )
    takes_all = {name: route.takes_all for name, route in routes.items()}
    return AgentDelivery(client, takes_all, max_queue_bytes=settings.max_queue_bytes, spool=spool)


def _plain(value: object) -> object:
    if isinstance(value, PathLike):
        return os.fspath(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, (set, frozenset)):
        return list(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    raise TypeError(f"no JSON: {value!r}")
