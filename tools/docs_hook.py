"""A hook of MkDocs: the site begins with README.md and has every file of the repository that pages link to.

So the pages' links work in the repository and in the site.
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
    """Adds README.md and everything that the pages link to, also through other pages."""
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
    """Changes links to where their targets are in the site. MkDocs warns of links without a target."""
    path = Path(str(page.file.abs_src_path))
    here = posixpath.dirname(page.file.src_uri) or "."

    def moved(link: re.Match[str]) -> str:
        target = _target(path, link[1])
        return posixpath.relpath(_uri(target), here) if target else link[1]

    return LINK.sub(moved, markdown)


def on_page_content(html: str, **_: object) -> str:
    """Removes Sphinx's roles from the names in docstrings."""
    return ROLE.sub(r"\1", html)


def _target(page: Path, link: str) -> Path | None:
    """The file that a link of a page leads to, if it is one."""
    path = Path(os.path.normpath(page.parent / link))
    return path if path.is_file() else None


def _uri(path: Path) -> str:
    """The place of a repository file in the site, as MkDocs names its sources."""
    uri = path.relative_to(ROOT).as_posix()
    return "index.md" if uri == "README.md" else uri.removeprefix("docs/")
