"""``tracelet-otel gateway``: from the command line's options to a gateway."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelet_otel.cli.destinations import add_options
from tracelet_otel.settings import ConfigurationError, parse_backends, resolve, state_folder


def gateway(
    backends: Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    tls: tuple[Path | None, Path | None, Path | None],
    **options: Any,
) -> None:
    """Serves until SIGTERM or SIGINT, with the options of :class:`~tracelet_otel.gateway.server.Options`.

    ``tls`` has the files of the certificate, its key and the authorities.

    Raises:
        ConfigurationError: an option is wrong, or a package of the gateway is not installed.
    """
    if None in map(importlib.util.find_spec, ("grpc", "opentelemetry.exporter.prometheus")):
        raise ConfigurationError("a gateway needs: pip install 'tracelet-otel[gateway]'")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core writes to stderr itself, and no JSON
    from tracelet_otel.gateway import json_logs
    from tracelet_otel.gateway.auth import certificates
    from tracelet_otel.gateway.server import Options, run

    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigurationError(f"--name must be letters, digits, . - or _, got {name!r}")
    settings = resolve()
    complete = Options(
        backends=backends,
        state=state_folder(settings.spool_dir),
        name=name,
        tls=certificates(*tls),
        stop_timeout=settings.shutdown_timeout,
        max_queue_bytes=settings.max_queue_bytes,
        max_spool_bytes=settings.max_spool_bytes,
        **options,
    )
    json_logs.install()
    run(complete)


def chosen_backends(
    config: Path | None, names: Sequence[str], options: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The backends of ``--config``, then of ``--backends``; ``--option`` replaces what the file has.

    Raises:
        ConfigurationError: the file cannot be read, or a backend or an option is wrong.
    """
    chosen: dict[str, dict[str, Any]] = {}
    if config is not None:
        try:
            content = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"--config {config} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise ConfigurationError(f"--config {config} must be a JSON object of backends")
        chosen |= parse_backends(content, f"--config {config}")
    for name in parse_backends(",".join(names), "--backends"):
        chosen.setdefault(name, {})
    add_options(chosen, options)
    return chosen
