"""Payloads too large for an event's body: files in the run's media folder, named by URI and SHA-256."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import IO, cast

from tracelet_otel.foundation.guard import log_once

MAX_INLINE_BYTES = 1024 * 1024
"""A payload above this goes into a file."""


class MediaFolder:
    """Where large payloads wait for their delivery.

    Args:
        url: a folder or any fsspec URL; empty is a temporary folder, made when first needed and
            removed by :meth:`remove`.
    """

    def __init__(self, url: str = "") -> None:
        self._url = url.rstrip("/")
        self._temporary = ""

    def store(self, payload: bytes) -> tuple[str, str] | None:
        """Writes a payload and returns its URI and SHA-256, or None, logged, if it cannot be written."""
        try:
            uri = self._new_uri()
            with _open(uri) as file:
                file.write(payload)
        except Exception as error:  # any of fsspec's backends may raise anything
            log_once(
                "media", logging.WARNING, "media folder %s: %s; the payload stays in memory", self._url, error
            )
            return None
        return uri, hashlib.sha256(payload).hexdigest()

    def store_file(self, path: Path) -> tuple[str, str, int]:
        """Copies a file and returns the copy's URI, SHA-256 and size in bytes.

        Raises:
            OSError: it cannot be read or copied.
        """
        digest, size = hashlib.sha256(), 0
        uri = self._new_uri()
        with path.open("rb") as source, _open(uri) as file:
            while block := source.read(1024 * 1024):
                digest.update(block)
                size += len(block)
                file.write(block)
        return uri, digest.hexdigest(), size

    def keep_file(self, path: Path) -> str:
        """Keeps a file's content under a second name, for a file that will be removed but not changed.

        Returns:
            The URI. In the same file system that is a hard link, which costs nothing whatever the size.

        Raises:
            OSError: it cannot be read, linked or copied.
        """
        uri = self._new_uri()
        try:
            os.link(path, uri, follow_symlinks=True)
        except (OSError, NotImplementedError):  # another file system, or none with links
            with path.open("rb") as source, _open(uri) as file:
                shutil.copyfileobj(source, file)
        return uri

    def _new_uri(self) -> str:
        if not self._url and not self._temporary:
            self._temporary = tempfile.mkdtemp(prefix="tracelet-media-")
        return f"{self._url or self._temporary}/{uuid.uuid4().hex}"

    def remove(self) -> None:
        """Removes the folder if it is temporary."""
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = ""


def _open(uri: str) -> IO[bytes]:
    import fsspec  # only a payload over 1 MiB needs it

    # fsspec has no types; auto_mkdir is that of its local files.
    return cast("IO[bytes]", fsspec.open(uri, "wb", auto_mkdir=True))  # pyright: ignore[reportUnknownMemberType]
