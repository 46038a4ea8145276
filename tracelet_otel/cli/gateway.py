"""``tracelet-otel gateway``: from the command line's options to a gateway."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracelet_otel.cli.targets import add_options
from tracelet_otel.settings import ConfigurationError, parse_backends, resolve, state_folder


@dataclass(frozen=True, slots=True)
class Arguments:
    """The options as they were typed."""

    backends: Sequence[str]
    options: Sequence[str]
    config: Path | None
    name: str
    grpc: str
    http: str
    token_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    insecure: bool
    silence: float
    media: Sequence[str]


def gateway(arguments: Arguments) -> int:
    """Serves until SIGTERM or SIGINT; the exit code.

    Raises:
        ConfigurationError: an option is wrong, or something of the gateway is not installed.
    """
    for module in ("grpc", "opentelemetry.exporter.prometheus"):
        if not _is_installed(module):
            raise ConfigurationError("a gateway needs: pip install 'tracelet-otel[gateway]'")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core writes to stderr itself, and no JSON
    from tracelet_otel.gateway import json_logs
    from tracelet_otel.gateway.auth import certificates
    from tracelet_otel.gateway.server import Options, run

    if not arguments.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigurationError(f"--name must be letters, digits, . - or _, got {arguments.name!r}")
    settings = resolve()
    options = Options(
        backends=_backends(arguments),
        state=state_folder(settings.spool_dir),
        name=arguments.name,
        grpc="" if arguments.grpc == "off" else arguments.grpc,
        http="" if arguments.http == "off" else arguments.http,
        token_file=arguments.token_file,
        tls=certificates(arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca),
        insecure=arguments.insecure,
        silence=arguments.silence,
        media=tuple(arguments.media),
        stop_timeout=settings.shutdown_timeout,
        max_queue_bytes=settings.max_queue_bytes,
        max_spool_bytes=settings.max_spool_bytes,
    )
    json_logs.install()
    run(options)
    return 0


def _backends(arguments: Arguments) -> dict[str, dict[str, Any]]:
    """The backends of ``--config``, then of ``--backends``; ``--option`` replaces what the file has."""
    chosen: dict[str, dict[str, Any]] = {}
    if arguments.config is not None:
        try:
            content = json.loads(arguments.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"--config {arguments.config} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise ConfigurationError(f"--config {arguments.config} must be a JSON object of backends")
        chosen |= parse_backends(content, f"--config {arguments.config}")
    for name in parse_backends(",".join(arguments.backends), "--backends"):
        chosen.setdefault(name, {})
    add_options(chosen, arguments.options)
    return chosen


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
