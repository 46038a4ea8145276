"""The rules by which secrets are masked."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelet_otel.secrets import redaction
from tracelet_otel.secrets.redaction import (
    is_secret_name,
    redacted,
    redacted_command,
    redacted_json,
    redacted_text,
    redacted_url,
    redacted_value,
)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "password",
            "DB_PASSWORD",
            "dbPassword",
            "--passwd",
            "client-secret",
            "HF_TOKEN",
            "token",
            "hf_token",
        ),
        *("wandb_api_key", "WANDB_API_KEY", "apikey", "apiKey", "aws_secret_access_key", "private-key"),
        *("AWSAccessKey", "credentials", "model.hub_token", "Authorization", "GITHUB_PAT", "sentry_dsn"),
        *("api_keys", "access_tokens"),
    ],
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "max_tokens",
            "num_tokens",
            "pad_token",
            "eos_token_id",
            "tokenizer",
            "token_dim",
            "tokens_per_batch",
        ),
        *(
            "key",
            "keys",
            "num_key_value_heads",
            "monkey",
            "keyboard",
            "lr",
            "secretary_dim",
            "path",
            "",
            "key_dim",
        ),
        *("mask_token", "author", "authors", "passes", "image_token", "-", "prng_key"),
        *("stop_tokens", "shared_keys"),
    ],
)
def test_other_names(name: str) -> None:
    assert not is_secret_name(name)


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
KEYS = [
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1B2_" * 8,
    "glpat-" + "a1B2" * 5,
    "hf_" + "aBcD" * 8,
    "sk-proj-" + "a1B2" * 10,
    "sk-ant-api03-" + "a1B2" * 10,
    "AIza" + "a1B2c" * 7,
    "xoxb-123456789012-abcdef",
    "pypi-" + "AgEI" * 10,
    "wandb_v1_" + "a1B2" * 10,
    JWT,
]


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_masked_by_their_form(key: str) -> None:
    for text in (key, f"x {key} y", f'{{"a": "{key}"}}', f"--set={key}", f"https://host/{key}/x"):
        masked = redacted_text(text)
        assert key not in masked
        assert "***" in masked
    assert key not in " ".join(redacted_command(["train.py", key, f"x={key}", "--name", key]))
    assert key not in json.dumps(redacted({"name": key, "list": [key], "deep": {"x": {"y": key}}}))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Bearer abcdefgh1234", "Bearer ***"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: *** ***"),
        ("postgresql://me:pw@host:5432/db", "postgresql://***@host:5432/db"),
        ("see https://tok@host/x and y", "see https://***@host/x and y"),
        ("password=abc&x=1", "password=***&x=1"),
        ("https://host/x?token=abc&page=2", "https://host/x?token=***&page=2"),
        ('{"api_key": "abc", "lr": 0.1}', '{"api_key": "***", "lr": 0.1}'),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----", "***"),
        ("a normal text: with = signs, lr=0.1", "a normal text: with = signs, lr=0.1"),
        ("0123456789abcdef0123456789abcdef01234567", "0123456789abcdef0123456789abcdef01234567"),
        ("s3://bucket/path@v2/x", "s3://bucket/path@v2/x"),
        ("pad_token=<pad>", "pad_token=<pad>"),
        ("use_auth_token=True", "use_auth_token=True"),
        ("mysql://u:p/w?#x@h/d", "mysql://***@h/d"),
        ("http://localhost:5000/a@b", "http://localhost:5000/a@b"),
        ("https://h/o?X-Amz-Signature=ab12&x=1", "https://h/o?X-Amz-Signature=***&x=1"),
        ("https://h/o?sv=2&sig=a%2Fb", "https://h/o?sv=2&sig=***"),
        ("Command '['git', '--token', 'abc']' failed", "Command '['git', '--token', '***']' failed"),
        ("git push --token aB3 --force", "git push --token *** --force"),
        ("set --token or --api-key, or log in", "set --token or --api-key, or log in"),
        ("--max-tokens 5 --lr 0.1", "--max-tokens 5 --lr 0.1"),
    ],
)
def test_texts(text: str, masked: str) -> None:
    assert redacted_text(text) == masked
    assert redacted_text(masked) == masked


@pytest.mark.parametrize(
    ("command", "masked"),
    [
        (["t.py", "--token", "X", "--lr", "1"], ["t.py", "--token", "***", "--lr", "1"]),
        (["t.py", "--api-key=X"], ["t.py", "--api-key=***"]),
        (["t.py", "--use-token", "--lr=1"], ["t.py", "--use-token", "--lr=1"]),
        (["t.py", "trainer.logger.api_key=X", "x=1"], ["t.py", "trainer.logger.api_key=***", "x=1"]),
        (
            ["t.py", "--max-tokens", "5", "--pad-token", "a"],
            ["t.py", "--max-tokens", "5", "--pad-token", "a"],
        ),
        (["t.py", "--db", "mysql://u:p@h/d"], ["t.py", "--db", "mysql://***@h/d"]),
        (["t.py", "--url=https://h/x?a=1"], ["t.py", "--url=https://h/x?a=1"]),
        (["t.py", "-password", "X", "Y"], ["t.py", "-password", "***", "Y"]),
        ([], []),
    ],
)
def test_commands(command: list[str], masked: list[str]) -> None:
    assert redacted_command(command) == masked


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://user:token@github.com/a/b.git", "https://github.com/a/b.git"),
        ("https://token@github.com/a/b.git?access=1#x", "https://github.com/a/b.git"),
        ("ssh://git@github.com:22/a/b", "ssh://git@github.com:22/a/b"),
        ("ssh://git:pw@github.com/a", "ssh://git@github.com/a"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("/srv/git/a.git", "/srv/git/a.git"),
        ("https://u:p/w@github.com/a", "https://github.com/a"),
        ("https://host/a@b/c", "https://host/a@b/c"),
        ("", ""),
    ],
)
def test_urls(url: str, clean: str) -> None:
    assert redacted_url(url) == clean


def test_values_of_other_types() -> None:
    assert redacted_value("token", None) is None
    assert redacted_value("token", True) is True
    assert redacted_value("token", 3) == 3
    assert redacted_value("password", 1234) == "***"
    assert redacted_value("tokens", ["a", "b"]) == ["a", "b"]
    assert redacted_value("api_keys", ["a", "b"]) == ["***", "***"]
    assert redacted_value("token", {"dim": 64, "hub": "a", "use": True}) == {
        "dim": 64,
        "hub": "***",
        "use": True,
    }
    assert redacted_value("password", {"a": "b"}) == "***"
    assert redacted({"auth": {"token": "x", "user": "y"}}) == {"auth": {"token": "***", "user": "y"}}


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    once = redacted_text(text)
    assert redacted_text(once) == once
    redacted_url(text)
    is_secret_name(text)
    assert len(redacted_command([text, text])) == 2


def test_a_long_text_takes_no_time() -> None:
    start = time.process_time()
    for text in (
        "a" * 200_000,
        "a=" * 100_000,
        "https://" * 25_000,
        "eyJ" * 60_000,
        "eyJaaaaa-" * 20_000,
        "a-b." * 50_000,
        "-----BEGIN " * 20_000,
        "a://b:" * 30_000,
        "--token " * 25_000,
        "?sig" * 50_000,
    ):
        redacted_text(text)
        is_secret_name(text)
    assert time.process_time() - start < 5
    assert redaction.MASK == "***"


# -- docs/secrets.md ------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "secrets.md").read_text(encoding="utf-8")


def rows(headline: str) -> list[list[str]]:
    """The table below a line that begins so, each cell's code."""
    table = PAGE[PAGE.index(f"\n{headline}") + 1 :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_the_page_has_the_words_of_the_rules() -> None:
    listed = [set(re.findall("`([a-z]+)`", words)) for _, words in rows("| it has | words |")]
    assert listed == [
        redaction._ANYWHERE,
        redaction._LAST,
        redaction._VOCABULARY,
        redaction._BEFORE_KEY,
        redaction._BEFORE_PLURAL,
    ]
    for word in redaction._VOCABULARY:
        assert not is_secret_name(f"{word}_token")
    for word in redaction._BEFORE_KEY:
        assert is_secret_name(f"{word}_key")


@pytest.mark.parametrize(("parameter", "becomes"), rows("| parameter | becomes |"))
def test_the_parameters_of_the_page(parameter: str, becomes: str) -> None:
    masked = redacted_json(parameter.strip("`").encode())
    assert json.loads(masked) == json.loads(becomes.strip("`"))


@pytest.mark.parametrize(("text", "becomes"), rows("| text | becomes |"))
def test_the_texts_of_the_page(text: str, becomes: str) -> None:
    assert redacted_text(text.strip("`")) == becomes.strip("`")


def test_the_page_names_what_has_a_form() -> None:
    for service in ("AWS", "GitHub", "GitLab", "Hugging Face", "OpenAI", "Anthropic", "Google", "Slack"):
        assert service in PAGE.partition("## By form")[2]


def test_json_without_a_secret_keeps_its_bytes() -> None:
    payload = '{"b": NaN, "a":  [1.0, "ü"]}'.encode()
    assert redacted_json(payload) is payload
    assert redacted_json(b'{"x": NaN, "api_key": "a"}') == b'{"x": NaN, "api_key": "***"}'


def test_a_payload_that_is_no_json_object_stays_what_it_is_but_for_secrets() -> None:
    for payload in (b"{", b"[1]", b"", b"\xff{"):
        assert redacted_json(payload) == payload.decode("utf-8", "replace").encode()
    assert redacted_json(b"{password=hunter2") == b"{password=***"
