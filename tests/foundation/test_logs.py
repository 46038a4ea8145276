"""What our loggers and lines say holds no secret."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracelet_otel.delivery.summary import say
from tracelet_otel.foundation import guard
from tracelet_otel.foundation.logs import REDACTING, get_logger
from tracelet_otel.gateway import json_logs

URL = "postgresql://me:canary@host/db"
MASKED = "postgresql://***@host/db"


def fail() -> None:
    raise RuntimeError(f"no connection to {URL}")


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """What a handler of the user's writes of all loggers."""
    text, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(text)
    root.addHandler(handler)
    yield text
    root.removeHandler(handler)


@pytest.mark.parametrize("name", ["tracelet_otel", "tracelet_otel.agent", "tracelet_otel_exporters.mlflow"])
def test_a_logger_masks_messages_and_tracebacks(output: io.StringIO, name: str) -> None:
    try:
        fail()
    except RuntimeError:
        get_logger(name).exception("%s is away: %d tries", URL, 3)
    assert f"{MASKED} is away: 3 tries" in output.getvalue()
    assert "in fail" in output.getvalue()
    assert f"RuntimeError: no connection to {MASKED}" in output.getvalue()
    assert "canary" not in output.getvalue()


def test_the_guard_masks_what_it_keeps_away(
    output: io.StringIO, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "raises", False)
    caplog.set_level(logging.DEBUG, "tracelet_otel")
    with guard.Guard(f"a test of {URL}"):
        fail()
    assert output.getvalue().count("Traceback") == 1
    assert "canary" not in output.getvalue()
    assert MASKED in output.getvalue()


def test_the_gateways_lines_are_json_without_secrets() -> None:
    text, logger = io.StringIO(), logging.getLogger("other.library")
    handler = logging.StreamHandler(text)
    handler.setFormatter(json_logs.JsonFormatter())
    handler.addFilter(REDACTING)
    logger.addHandler(handler)
    try:
        fail()
    except RuntimeError:
        logger.exception('{"password": "canary"}')
    finally:
        logger.removeHandler(handler)
    line = json.loads(text.getvalue())
    assert line["message"] == '{"password": "***"}'
    assert line["error"].endswith(f"RuntimeError: no connection to {MASKED}")
    assert "canary" not in text.getvalue()


def test_a_librarys_wrong_call_raises_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(io.StringIO())
    handler.addFilter(REDACTING)
    handler.handle(logging.LogRecord("other", logging.WARNING, "x.py", 1, "%d %d", ("one",), None))
    assert "Logging error" in capsys.readouterr().err


def test_a_line_masks_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"mlflow: captured 1 point, delivered all -> {URL} run 1")
    assert (
        capsys.readouterr().err
        == f"tracelet-otel: mlflow: captured 1 point, delivered all -> {MASKED} run 1\n"
    )


def test_each_of_our_loggers_is_made_here() -> None:
    root = Path(__file__).parents[2]
    sources = [*(root / "tracelet_otel").rglob("*.py"), *(root / "exporters").rglob("*.py")]
    own = re.compile(r"""getLogger\((__name__|["']tracelet)""")
    assert [path.name for path in sources if own.search(path.read_text(encoding="utf-8"))] == []
