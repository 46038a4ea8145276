"""What of a spool that waits for several backends one of them gets: what the session would have given it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.routing import Route, take_route
from tracelet_otel.delivery.spool.json_lines import batch_of
from tracelet_otel.delivery.spool.spool import ROUTES
from tracelet_otel.gateway.items import Item, check_logs, check_metrics
from tracelet_otel.gateway.pieces import Chosen, logs_piece, metrics_piece
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics
from tracelet_otel.settings import ConfigurationError


def route_of(spool: Path, backend: str) -> Route:
    """The route by which a backend gets what is in a spool: everything, unless its session said otherwise.

    Raises:
        ConfigurationError: what the session said cannot be read.
    """
    path = spool / ROUTES
    try:
        routes: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
        return take_route(backend, routes.get(backend, {}))[0]
    except FileNotFoundError:
        return Route()
    except (OSError, ValueError, AttributeError, ConfigurationError) as error:
        raise ConfigurationError(f"{path} does not say which backend gets what: {error}") from error


def through(route: Route, batch: Batch, folder: Path) -> Batch:
    """What of a spool's batch a route lets through."""
    if route.takes_all:
        return batch
    if isinstance(batch.metrics, bytes):
        metrics = parse_metrics(batch.metrics)
        chosen = _chosen(route, check_metrics(metrics).items)
        return batch_of(metrics_piece(metrics, chosen), folder) if chosen else Batch()
    if isinstance(batch.logs, bytes):
        logs = parse_logs(batch.logs)
        chosen = _chosen(route, check_logs(logs, None).items)
        return batch_of(logs_piece(logs, chosen), folder) if chosen else Batch()
    return batch


def _chosen(route: Route, items: list[Item]) -> list[Chosen]:
    return [(item, item.ranges) for item in items if route.takes(item.kind, item.tag)]
