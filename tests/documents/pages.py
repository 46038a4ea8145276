"""The documents: README.md, docs/ and what is beside the examples, as blocks of code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("examples/**/*.md")),
]
FENCE = re.compile(r"^```(?P<kind>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
SEPARATORS = {"|", "||", "&&", ">", "&", ";"}


class Block(NamedTuple):
    """A block of code of a page."""

    page: str
    """Its path below the repository's root."""
    kind: str
    code: str

    @property
    def commands(self) -> list[str]:
        """The lines that a reader types, of a block that is one for a shell."""
        if self.kind == "console":
            return [line[2:] for line in self.code.splitlines() if line.startswith("$ ")]
        return self.code.replace("\\\n", " ").splitlines() if self.kind == "sh" else []


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Every block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = [Block(name_of(page), match["kind"], match["code"]) for match in FENCE.finditer(text)]
    assert text.count("\n```") == 2 * len(found), f"{page}: a block has no language, or no end"
    return found


ALL = [block for page in PAGES for block in blocks(page)]


def words(command: str) -> list[str]:
    """The words of a command's first part, without variables that are set before it."""
    found: list[str] = []
    for word in shlex.split(command, comments=True):
        if word in SEPARATORS:
            break
        if found or not re.match(r"\w+=", word):
            found.append(word)
    return found
