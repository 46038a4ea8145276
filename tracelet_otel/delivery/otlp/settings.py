"""Where and how OTLP is sent: the standard variables, and the options of backend ``otlp``.

Source: OpenTelemetry specification, "OpenTelemetry Protocol Exporter". As in all of OpenTelemetry's exporters
in Python, but not in the specification, the protocol is gRPC by default and a time-out is in seconds. The
specification has milliseconds; so a variable's value of 1,000 or more is taken as milliseconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from tracelet_otel.otlp.json import Signal
from tracelet_otel.settings import ConfigurationError

GRPC: Final = "grpc"
HTTP: Final = "http/protobuf"
PREFIX: Final = "OTEL_EXPORTER_OTLP_"
OPTIONS: Final = ("endpoint", "protocol", "headers", "compression", "timeout")
"""What ``configure(backends={"otlp": {...}})`` may say, instead of the variables."""
SIGNALS: Final[tuple[Signal, ...]] = ("metrics", "logs")
DEFAULT_TIMEOUT_S: Final = 10.0

_DEFAULT_ENDPOINTS: Final = {GRPC: "http://localhost:4317", HTTP: "http://localhost:4318"}
_PATHS: Final[Mapping[Signal, str]] = {"metrics": "v1/metrics", "logs": "v1/logs"}
_SIGNAL_PATH: Final = re.compile(r"/v1/(metrics|logs|traces)/?$")
_FIRST_MILLISECONDS: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where and how one signal is sent."""

    protocol: Literal["grpc", "http/protobuf"]
    endpoint: str
    """HTTP: the complete URL. gRPC: the target as gRPC has it, without a scheme of HTTP."""
    secure: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    compression: Literal["gzip", "none"] = "none"
    timeout: float = DEFAULT_TIMEOUT_S
    """Seconds for one request."""
    certificate: str = ""
    """File of the authorities that are trusted, PEM; empty for the machine's own."""
    client_key: str = ""
    client_certificate: str = ""

    @property
    def files(self) -> tuple[str, str, str]:
        """The files of TLS, in the order of :func:`grpc.ssl_channel_credentials`."""
        return self.certificate, self.client_key, self.client_certificate


def resolve(options: Mapping[str, Any], *, protocol: str = "") -> dict[Signal, Receiver]:
    """A receiver for each signal, from options, variables and defaults, in this order.

    Args:
        options: of :data:`OPTIONS`. ``endpoint`` is the base: for HTTP ``/v1/metrics`` and ``/v1/logs`` are
            appended. ``timeout`` is in seconds; ``headers`` are a mapping or a text as in the variable.
        protocol: fixed by the backend's name.

    Raises:
        ConfigurationError: an option is unknown, or a value is not allowed.
    """
    allowed = [name for name in OPTIONS if not (protocol and name == "protocol")]
    for name in options:
        if name not in allowed:
            raise ConfigurationError(f"backend 'otlp' takes {', '.join(allowed)}; got {name!r}")
    return {signal: _resolve(signal, options, protocol) for signal in SIGNALS}


class _Values:
    """The options and variables of one signal; remembers where a value came from, for messages."""

    def __init__(self, signal: Signal, options: Mapping[str, Any]) -> None:
        self._signal = signal
        self._options = options

    def get(self, name: str) -> tuple[Any, str]:
        """The value and its source; an empty value counts as not set."""
        given = self._options.get(name)
        if given is not None and given != "":
            return given, f"option {name} of backend 'otlp'"
        for variable in (f"{PREFIX}{self._signal.upper()}_{name.upper()}", f"{PREFIX}{name.upper()}"):
            if text := os.environ.get(variable, "").strip():
                return text, variable
        return "", ""

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        value, source = self.get(name)
        text = str(value).strip().lower() or default
        if text not in allowed:
            raise ConfigurationError(f"{source} must be one of {', '.join(allowed)}, got {value!r}")
        return text

    def file(self, name: str) -> str:
        value, source = self.get(name)
        if value and not Path(value).is_file():
            raise ConfigurationError(f"{source} names no file: {value!r}")
        return str(value)


def _resolve(signal: Signal, options: Mapping[str, Any], fixed: str) -> Receiver:
    values = _Values(signal, options)
    protocol = fixed or values.choice("protocol", (GRPC, HTTP), GRPC)
    endpoint, secure = _endpoint(signal, values, protocol)
    client_key, client_certificate = values.file("client_key"), values.file("client_certificate")
    if bool(client_key) != bool(client_certificate):
        raise ConfigurationError(f"{PREFIX}CLIENT_KEY and {PREFIX}CLIENT_CERTIFICATE need each other")
    return Receiver(
        protocol=cast('Literal["grpc", "http/protobuf"]', protocol),
        endpoint=endpoint,
        secure=secure,
        headers=_headers(*values.get("headers")),
        compression=cast('Literal["gzip", "none"]', values.choice("compression", ("gzip", "none"), "none")),
        timeout=_timeout(*values.get("timeout")),
        certificate=values.file("certificate"),
        client_key=client_key,
        client_certificate=client_certificate,
    )


def _endpoint(signal: Signal, values: _Values, protocol: str) -> tuple[str, bool]:
    """The endpoint as :class:`Receiver` has it, and whether the connection is encrypted."""
    value, source = values.get("endpoint")
    given = str(value).strip() or _DEFAULT_ENDPOINTS[protocol]
    scheme = re.match(r"(https?)://", given, re.IGNORECASE)
    try:
        parts = urlsplit(given) if scheme else None
        host = "" if parts is None or parts.hostname is None else parts.netloc.rpartition("@")[2]
        _ = parts and parts.port
    except ValueError as error:
        raise ConfigurationError(f"{source} is no URL: {given!r}: {error}") from error
    secure = scheme is not None and scheme[1].lower() == "https"
    if parts is not None and not host:
        raise ConfigurationError(f"{source} has no host: {given!r}")
    if protocol == GRPC:
        if parts is not None:
            return host, secure
        insecure = values.choice("insecure", ("true", "false"), "false") == "true"
        return given, not (insecure or given.startswith("unix:"))
    if parts is None:
        raise ConfigurationError(
            f"{source} must be a URL that begins with http:// or https:// for {HTTP}, got {given!r}"
        )
    base = f"{parts.scheme}://{host}{parts.path}"
    if source == f"{PREFIX}{signal.upper()}_ENDPOINT":  # as it is, the specification says
        return (base if parts.path else f"{base}/"), secure
    if _SIGNAL_PATH.search(parts.path):
        raise ConfigurationError(
            f"{source} is the base of every signal's URL: leave off /v1/..., got {given!r}"
        )
    return f"{base.rstrip('/')}/{_PATHS[signal]}", secure


def _headers(value: Any, source: str) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        found = {str(key).lower(): str(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    else:
        found = dict(parse_env_headers(str(value), liberal=True))
        if value and not found:
            raise ConfigurationError(f"{source} must look like key=value,key=value")
    for key, text in found.items():
        if not key.isascii() or not text.isascii() or any(ord(letter) < 32 for letter in key + text):
            raise ConfigurationError(f"{source}: header {key!r} has characters that no header may have")
    return tuple(found.items())


def _timeout(value: Any, source: str) -> float:
    if value == "":
        return DEFAULT_TIMEOUT_S
    try:
        number = float(value)
        if not 0 < number < float("inf"):
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigurationError(f"{source} must be a number of seconds above 0, got {value!r}") from None
    return number / 1000 if source.startswith(PREFIX) and number >= _FIRST_MILLISECONDS else number
