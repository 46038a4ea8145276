"""What the documents say of settings, names, messages and files is what the code has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tests.documents.pages import PAGES, ROOT, name_of
from tools.settings_table import PAGE, with_table
from tracelet_otel import semconv
from tracelet_otel.resource import git

TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADLINES = re.findall(r"^### `([^`]+)`$", TROUBLES, re.M)


def test_the_table_of_settings_is_that_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_table(text) == text, "run tools/settings_table.py --write"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_names_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "semantic-conventions.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)} | {semconv.TENSORBOARD_LOG_DIR}
    constants = {
        value
        for name, value in vars(semconv).items()
        if name.isupper() and isinstance(value, str) and name != "EVENT_PREFIX"
    }
    events = {f"{semconv.EVENT_PREFIX}{kind}" for kind in get_args(semconv.Kind)}
    versions = git.attributes({"commit": "1", "branch": "main", "repository": "https://host/repository"})
    assert named == constants | events | versions.keys()
    assert f"`{semconv.TENSORBOARD_LOG_DIR}`" in page


def messages() -> Iterator[str]:
    """Every text of the code; of an f-string or a format, its parts between the values."""
    for folder in ("tracelet_otel", "exporters"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                    yield "".join(map(str, parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield re.sub(r"%[sdr]", "\0", node.value)


MESSAGES = set(messages())


@pytest.mark.parametrize("headline", HEADLINES)
def test_a_message_is_one_that_the_code_has(headline: str) -> None:
    parts = [part.strip() for part in headline.split("...")]
    pattern = ".*\0.*".join(map(re.escape, filter(None, parts)))
    assert any(re.search(pattern, message, re.S) for message in MESSAGES), headline
