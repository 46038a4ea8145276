"""What of a spool that waits for several backends one of them gets: what the session would have given it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tracelet_otel.delivery.destination import Batch
from tracelet_otel.delivery.routing import Route, take_route
from tracelet_otel.delivery.spool.json_lines import batch_of
from tracelet_otel.delivery.spool.spool import ROUTES
from tracelet_otel.gateway.partial_requests import Chosen, partial_logs, partial_metrics
from tracelet_otel.gateway.validation import Element, validate_logs, validate_metrics
from tracelet_otel.otlp.decoding import parse_logs, parse_metrics
from tracelet_otel.settings import ConfigurationError


def route_of(spool: Path, backend: str) -> Route:
    """The route by which a backend gets what is in a spool: everything, unless its session has routes.

    Raises:
        ConfigurationError: the routes cannot be read.
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
        chosen = _chosen(route, validate_metrics(metrics).elements)
        return batch_of(partial_metrics(metrics, chosen), folder) if chosen else Batch()
    if isinstance(batch.logs, bytes):
        logs = parse_logs(batch.logs)
        chosen = _chosen(route, validate_logs(logs, None).elements)
        return batch_of(partial_logs(logs, chosen), folder) if chosen else Batch()
    return batch


def _chosen(route: Route, elements: list[Element]) -> list[Chosen]:
    return [(element, element.ranges) for element in elements if route.takes(element.kind, element.tag)]
