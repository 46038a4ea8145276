"""What a value's tag becomes in a run that several writers write to: one pure function.

Two writers never share a series, whatever their folders and tags are, and a tag of the run's first folder
stays as it is. ``docs/names.md`` has a table of examples.
"""

from __future__ import annotations

import os
import re
from typing import Final

_FOLDER_MARK: Final = re.compile(":+/")
"""Between a folder and a tag: one colon, and one more for each level that the folder is above the first."""
_ENDS_LIKE_MARK: Final = re.compile(r":(?=/|\Z)|%(?=(?:25)*3A(?:/|\Z))")
_KEY_MARK: Final = re.compile("/:")
"""Between the main tag and the key of ``add_scalars``; two colons where tensorboardX wrote it."""


def series_tag(first_folder: str, folder: str, tag: str) -> str:
    """The run's tag for a writer's own.

    Args:
        first_folder: the first folder that the run was written to, absolute or a URL.
        folder: the writer's, absolute or a URL.
        tag: as the writer was given it.

    Example:
        >>> series_tag("/runs/cv", "/runs/cv", "val/acc")
        'val/acc'
        >>> series_tag("/runs/cv", "/runs/cv/fold0", "val/acc")
        'fold0:/val/acc'
        >>> series_tag("/runs/a", "/runs/b", "loss")
        'b::/loss'
        >>> series_tag("/runs/cv", "/runs/cv/Loss_train", "Loss")
        'Loss/:train'
    """
    first_folder, folder = first_folder.replace(os.sep, "/"), folder.replace(os.sep, "/")
    home, name = _of_add_scalars(first_folder, folder, tag) or (folder, _escaped(tag))
    if home == first_folder:
        return f":/{name}" if _FOLDER_MARK.search(name) else name
    place, levels = _relative(home, first_folder)
    return f"{place}{':' * (levels + 1)}/{name}"


def absolute(folder: str) -> str:
    """A writer's folder, absolute or a URL."""
    # Not pathlib's, since it may be no path of this system.
    return folder.rstrip("/") if "://" in folder else os.path.abspath(folder)  # noqa: PTH100


def _of_add_scalars(first_folder: str, folder: str, tag: str) -> tuple[str, str] | None:
    """The folder of the writer and the name, where ``add_scalars`` wrote this.

    ``add_scalars(m, {a: ...})`` writes ``m`` into a folder that torch calls ``m_a`` and tensorboardX ``m/a``.
    """
    first, parts = first_folder.rstrip("/").split("/"), folder.split("/")
    shared = 0
    while parts[shared : shared + 1] == first[shared : shared + 1] != []:
        shared += 1
    above, below = "/".join(parts[:shared]), "/".join(["", *parts[shared:]])
    for called, mark in ((f"/{tag.replace('/', '_')}_", "/:"), (f"/{tag}/", "/::")):
        before, found, key = below.rpartition(called)
        # A folder above the first is not a writer's: its next one is called like the tag by chance.
        is_writer = before or shared == len(first)
        if tag and found and is_writer and key and not key.startswith(":") and "/:" not in key:
            return f"{above}{before}" or "/", f"{_escaped(tag)}{mark}{key}"
    return None


def _escaped(tag: str) -> str:
    """The tag, with two colons more where it could be taken for that of ``add_scalars``."""
    return _KEY_MARK.sub("/:::", tag)


def _relative(folder: str, first_folder: str) -> tuple[str, int]:
    """The folder as seen from the first one, and the levels that it is above it."""
    parts: list[str]
    try:
        if ("://" in folder) != ("://" in first_folder):
            raise ValueError(folder)
        parts = os.path.relpath(folder, first_folder).replace(os.sep, "/").split("/")
    except ValueError:  # on another drive: the whole path, which is no relative one
        parts = folder.split("/")
    levels = parts.count("..")
    place = "/".join(part for part in parts[levels:] if part != ".")
    return _ENDS_LIKE_MARK.sub(lambda match: f"%{ord(match[0]):02X}", place), levels
