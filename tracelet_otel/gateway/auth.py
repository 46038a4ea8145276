"""Who may send: bearer tokens from a file, and certificates."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from tracelet_otel.foundation.guard import log_once
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel.settings import ConfigurationError

_log = get_logger("tracelet_otel.gateway")


class Tokens:
    """The bearer tokens of a file, one a line. Blank lines and lines that begin with ``#`` do not count.

    The file is read again when it changes. If it cannot be read then, or has no token, the tokens stay and
    the log says so.

    Raises:
        ConfigurationError: the file cannot be read or has no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = (0, 0, 0)
        self._tokens: tuple[bytes, ...] = ()
        try:
            self._read()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"--token-file {path} cannot be used: {error}") from error

    def allow(self, authorization: str) -> bool:
        """Whether the value of an ``Authorization`` header has a known token."""
        try:
            if self._read():
                _log.info("%d tokens read from %s", len(self._tokens), self._path)
        except (OSError, ValueError) as error:
            log_once(
                "tokens", logging.ERROR, "%s: the tokens that were read before stay: %s", self._path, error
            )
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("utf-8", "replace")
        # All of them are compared, so that the time tells nothing.
        known = [hmac.compare_digest(given, one) for one in self._tokens]
        return scheme.lower() == "bearer" and any(known)

    def _read(self) -> bool:
        """Reads the file, unless it is as it was; whether it was read."""
        found = os.stat(self._path)  # noqa: PTH116 - follows the links by which a cluster swaps a secret's files
        state = found.st_mtime_ns, found.st_ino, found.st_size
        if state == self._state:
            return False
        lines = [line.strip() for line in self._path.read_text(encoding="utf-8").splitlines()]
        tokens = tuple(line.encode() for line in lines if line and not line.startswith("#"))
        if not tokens:
            raise ValueError("there is no token in it")
        self._state, self._tokens = state, tokens
        return True


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM for TLS."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """If set, clients have to show a certificate that it signed."""


def certificates(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Certificates | None:
    """The files for TLS, or None without TLS.

    Raises:
        ConfigurationError: a file is missing or cannot be read.
    """
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise ConfigurationError("--tls-cert and --tls-key belong together; --tls-client-ca needs both")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password="")  # so that OpenSSL never asks for one
        if client_ca is not None:
            context.load_verify_locations(client_ca)
    except OSError as error:  # of which the library's own errors are a kind
        files = f"--tls-cert {certificate}, --tls-key {key} and --tls-client-ca {client_ca}"
        raise ConfigurationError(f"{files} cannot be used: {error}") from error
    return Certificates(certificate, key, client_ca)


def require_protection(hosts: list[str], *, protected: bool, insecure: bool) -> None:
    """Refuses to let everyone in a network write.

    Raises:
        ConfigurationError: an address is beyond this machine, and senders need no token and no certificate.
    """
    beyond = [host for host in hosts if not is_loopback(host)]
    if beyond and not protected and not insecure:
        raise ConfigurationError(
            f"to listen on {beyond[0]} lets everyone who reaches it write: give --token-file, or "
            "--tls-cert, --tls-key and --tls-client-ca; or --insecure if something else protects it"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
