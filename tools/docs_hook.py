"""For MkDocs: the site begins with README.md, and has every file of the repository that a page links to.

The pages' links are those of the repository, so that they lead somewhere in both.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
ROLE = re.compile(r":(?:class|data|exc|func|meth|mod):(<code>)(?:~[\w.]+\.)?")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds README.md, and what is linked to from there, directly or not."""
    waiting = [ROOT / "README.md", *(ROOT / "docs" / file.src_uri for file in files.documentation_pages())]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if (uri := _uri(path)) not in files.src_uris:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
        if path.suffix == ".md":
            links = LINK.findall(path.read_text(encoding="utf-8"))
            new = {target for link in links if (target := _target(path, link))} - seen
            waiting += sorted(new)
            seen |= new
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Has links lead to where their targets are in the site; of those that lead nowhere MkDocs warns."""
    path = Path(str(page.file.abs_src_path))
    here = posixpath.dirname(page.file.src_uri) or "."

    def moved(link: re.Match[str]) -> str:
        target = _target(path, link[1])
        return posixpath.relpath(_uri(target), here) if target else link[1]

    return LINK.sub(moved, markdown)


def on_page_content(html: str, **_: object) -> str:
    """Takes Sphinx's roles off the names in docstrings."""
    return ROLE.sub(r"\1", html)


def _target(page: Path, link: str) -> Path | None:
    """The file that a link of a page leads to, if it is one."""
    path = Path(os.path.normpath(page.parent / link))
    return path if path.is_file() else None


def _uri(path: Path) -> str:
    """Where a file of the repository is in the site, as MkDocs names the sources."""
    uri = path.relative_to(ROOT).as_posix()
    return "index.md" if uri == "README.md" else uri.removeprefix("docs/")
