"""Who is let in: bearer tokens, and certificates made by a CA of the test."""

from __future__ import annotations

import datetime
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import trustme

from tests.gateway.process import Client, Gateway, Protocol
from tests.gateway.support import Job
from tests.gateway.test_servers import JSON, PROTOCOLS, client, points
from tracelet_otel.gateway.auth import Tokens, is_loopback, require_protection
from tracelet_otel.settings import ConfigurationError


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_tokens_of_the_file_let_in_and_the_file_is_read_again(
    tmp_path: Path, protocol: Protocol
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# of the cluster\nfirst-token\n\n  second-token  \n")
    refused = {"grpc": "UNAUTHENTICATED", "http": "401"}[protocol]
    taken = {"grpc": "OK", "http": "200"}[protocol]
    job = Job("run-a")
    [request] = job.steps("x", range(3))
    arguments = (*JSON, "--token-file", tokens)

    with Gateway(tmp_path, *arguments) as gateway:

        def answers(*given: str) -> list[str]:
            found: list[str] = []
            for token in given:
                with client(gateway, protocol, token=token) as sender:
                    found += [sender.send("metrics", request.data).code, sender.send("traces", b"").code]
            return found

        wrong = ("", "wrong", "first-token2", "first-toke", "# of the cluster", "first-token second-token")
        assert set(answers(*wrong)) == {refused}
        assert set(answers("first-token", "second-token")) == {taken}
        tokens.write_text("third-token\n")
        assert set(answers("third-token")) == {taken}
        assert set(answers("first-token", "second-token")) == {refused}
        tokens.write_text("")  # a slip: nobody would get in
        assert set(answers("third-token")) == {taken}
        tokens.unlink()
        assert set(answers("third-token")) == {taken}
        assert set(answers("first-token", "")) == {refused}
        assert httpx.get(f"http://{gateway.http}/readyz").status_code == 200
        assert gateway.stop() == 0
        assert any("the tokens that were read before stay" in line["message"] for line in gateway.lines)
        assert not any("-token" in line.replace("--token", "") for line in gateway.raw)  # no secret in a log
    assert points(tmp_path, "run-a") == job.keys


def test_without_a_scheme_there_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("token\nümlaut\n")
    tokens = Tokens(tmp_path / "tokens")
    for header in ("token", "Basic token", "", "Bearer", "Bearer ", "bearer: token", "Bearer token x"):
        assert not tokens.allow(header)
    for header in ("Bearer token", "bearer token", "BEARER  token ", "Bearer ümlaut"):
        assert tokens.allow(header)


@pytest.mark.parametrize("content", [None, "", "# nothing\n\n", b"\xff\xfe"])
def test_a_file_without_tokens_is_no_way_to_begin(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError, match="--token-file"):
        Tokens(path)


def test_a_link_that_is_turned_is_a_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a cluster swaps the files of a secret."""
    for name in ("old", "new"):
        (tmp_path / name).write_text(f"token-{name}")
    link = tmp_path / "tokens"
    link.symlink_to(tmp_path / "old")
    tokens = Tokens(link)
    assert tokens.allow("Bearer token-old")
    (tmp_path / "next").symlink_to(tmp_path / "new")
    with caplog.at_level(logging.INFO):
        (tmp_path / "next").replace(link)
        assert tokens.allow("Bearer token-new")
    assert not tokens.allow("Bearer token-old")
    assert "1 tokens read" in caplog.text


def test_beyond_loopback_somebody_has_to_be_asked() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert is_loopback(host)
        require_protection([host], protected=False, insecure=False)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        with pytest.raises(ConfigurationError, match="--insecure"):
            require_protection(["127.0.0.1", host], protected=False, insecure=False)
        require_protection([host], protected=True, insecure=False)
        require_protection([host], protected=False, insecure=True)


class Files(NamedTuple):
    """Certificates as files."""

    ca: Path
    server: tuple[Path, Path]
    make: Callable[..., tuple[Path, Path]]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def make(name: str, authority: trustme.CA = ca, **validity: Any) -> tuple[Path, Path]:
        made = authority.issue_cert(name, "127.0.0.1", **validity)
        certificate, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(key))
        return certificate, key

    return Files(tmp_path / "ca.pem", make("server.test"), make)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_a_valid_certificate_of_the_ca_lets_in(tmp_path: Path, files: Files, protocol: Protocol) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    good = files.make("client.test")
    expired = files.make("expired.test", not_before=now - 2 * day, not_after=now - day)
    early = files.make("early.test", not_before=now + day, not_after=now + 2 * day)
    foreign = files.make("foreign.test", trustme.CA())
    tls = ("--tls-cert", files.server[0], "--tls-key", files.server[1], "--tls-client-ca", files.ca)
    job = Job("run-a")
    [request] = job.steps("x", range(3))

    with Gateway(tmp_path, *JSON, *tls) as gateway:

        def is_let_in(certificate: tuple[Path, Path] | None) -> bool:
            with client(gateway, protocol, tls=(files.ca, certificate)) as sender:
                try:
                    code = sender.send("metrics", request.data).code
                except (httpx.TransportError, ssl.SSLError):
                    return False
                assert code in ("OK", "200", "UNAVAILABLE")  # gRPC's own, as it cannot connect
                return code != "UNAVAILABLE"

        assert is_let_in(good)
        for certificate in (None, expired, early, foreign):
            assert not is_let_in(certificate)
        with client(gateway, protocol) as sender:  # and none without TLS
            if protocol == "grpc":
                assert sender.send("metrics", request.data).code == "UNAVAILABLE"
            else:
                with pytest.raises(httpx.TransportError):
                    sender.send("metrics", request.data)
        assert is_let_in(good)
        assert gateway.stop() == 0
        assert gateway.heard("stopped")["delivered_points"] == 3
        assert all(line.startswith("{") for line in gateway.raw)
    assert points(tmp_path, "run-a") == job.keys


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_token_over_tls(tmp_path: Path, files: Files, protocol: Protocol) -> None:
    (tmp_path / "tokens").write_text("token")
    tls = ("--tls-cert", files.server[0], "--tls-key", files.server[1])
    job = Job("run-a")
    with Gateway(tmp_path, *JSON, *tls, "--token-file", tmp_path / "tokens") as gateway:
        with client(gateway, protocol, tls=(files.ca, None), token="token") as sender:
            sender.accept(job.begin(), job.steps("x", range(3)))
        with client(gateway, protocol, tls=(files.ca, None)) as sender:
            assert sender.send("metrics", b"").code in ("401", "UNAUTHENTICATED")
        assert gateway.stop() == 0
    assert points(tmp_path, "run-a") == job.keys


def test_a_certificate_that_is_none_is_said_at_once(tmp_path: Path, files: Files) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    for certificate, key in ((tmp_path / "bad.pem", files.server[1]), (files.ca, files.server[1])):
        with Gateway(tmp_path, *JSON, "--tls-cert", certificate, "--tls-key", key) as gateway:
            assert gateway.process.wait(30) == 2
            gateway._reader.join(5)
            assert "Traceback" not in "".join(gateway.raw)
            assert "--tls-cert" in "".join(gateway.raw)


def test_tokens_in_the_clear_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("token")
    arguments = (*JSON, "--token-file", tmp_path / "tokens", "--http", "0.0.0.0:0")
    with Gateway(tmp_path, *arguments) as gateway:
        gateway.heard("listening")
        assert any("travel in the clear" in line["message"] for line in gateway.lines)
        port = gateway.http.rpartition(":")[2]
        with Client("http", f"127.0.0.1:{port}", token="token") as sender:
            assert sender.send("metrics", b"").code == "200"
        assert gateway.stop() == 0
