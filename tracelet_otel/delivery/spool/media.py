"""The payloads of a spool that are files: each stays in its media folder while a request names it."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tracelet_otel import semconv
from tracelet_otel.foundation.guard import log_once
from tracelet_otel.otlp.traversal import log_records

MEDIA: Final = "media"
"""The folder's name."""


@dataclass(slots=True)
class Payloads:
    """The files that a logs request names."""

    data: bytes
    """The request, with names relative to the spool."""
    names: tuple[str, ...] = ()
    copies: list[tuple[Path, Path]] = field(default_factory=list[tuple[Path, Path]])
    """Those that are not kept yet: where they are, and where they go."""
    size: int = 0
    """Bytes of these."""


class Media:
    """Counts by how many requests each file is named. Not thread-safe: its spool's user holds a lock.

    Args:
        folder: the spool's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / MEDIA
        self.bytes = 0
        self._named: Counter[str] = Counter()

    def of(self, data: bytes) -> Payloads:
        """What a logs request names; nothing is kept yet."""
        if not mentions_media(data):
            return Payloads(data)
        request = ExportLogsServiceRequest.FromString(data)
        copies: dict[Path, Path] = {}
        names: list[str] = []
        for uri, digest in _payload_uris(request):
            source = local_path(uri.value.string_value)
            if source is None:
                continue
            # A digest is what a sender says: it must not lead out of the folder.
            name = digest if digest.isalnum() else hashlib.sha256(bytes(source)).hexdigest()
            target = self.folder / name
            if not target.exists() and source.exists():  # a missing one is found missing later
                copies[target] = source
            uri.value.string_value = f"{MEDIA}/{name}"
            names.append(name)
        size = sum(source.stat().st_size for source in copies.values())
        moves = [(source, target) for target, source in copies.items()]
        return Payloads(request.SerializeToString(), tuple(names), moves, size)

    def keep(self, payloads: Payloads) -> None:
        """Takes files in: where they are now is temporary.

        Raises:
            OSError: one cannot be kept; then no file is kept.
        """
        self.add(payloads.names)
        try:
            for source, target in payloads.copies:
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(source, target)
                self.bytes += target.stat().st_size
        except BaseException:
            self.release(payloads.names)
            raise

    def add(self, names: Iterable[str]) -> None:
        """A request names these files."""
        self._named.update(names)

    def release(self, names: Iterable[str]) -> None:
        """A request is gone, and with it the files that no other names."""
        for name in names:
            self._named[name] -= 1
            if self._named[name] <= 0:
                del self._named[name]
                self._remove(self.folder / name)

    def adopt(self, *, keeps: bool = False) -> None:
        """Counts what an earlier process left; what no request names is removed, unless it ``keeps``.

        Raises:
            OSError: the folder cannot be read.
        """
        self.bytes = 0
        for path in list(self.folder.iterdir()) if self.folder.is_dir() else ():
            self.bytes += path.stat().st_size
            if path.name not in self._named and not keeps:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            log_once(f"media {path.parent}", logging.WARNING, "%s is not removed: %s", path, error)
        else:
            self.bytes -= size


def located(data: bytes, folder: Path) -> bytes:
    """A logs request whose relative names of files are absolute ones below a folder."""
    if not mentions_media(data):
        return data
    request = ExportLogsServiceRequest.FromString(data)
    locate(request, folder)
    return request.SerializeToString()


def locate(request: ExportLogsServiceRequest, folder: Path) -> None:
    """Makes relative names of files absolute ones below a folder."""
    for uri, _ in _payload_uris(request):
        if "://" not in uri.value.string_value and not Path(uri.value.string_value).is_absolute():
            uri.value.string_value = str((folder / uri.value.string_value).absolute())


def names_of(data: bytes) -> tuple[str, ...]:
    """The names of the files in the media folder of its spool that a logs request names."""
    uris = (uri.value.string_value for uri, _ in _payload_uris(ExportLogsServiceRequest.FromString(data)))
    return tuple(uri.removeprefix(f"{MEDIA}/") for uri in uris if uri.startswith(f"{MEDIA}/"))


def _payload_uris(request: ExportLogsServiceRequest) -> Iterator[tuple[KeyValue, str]]:
    """The attributes that name a file, each with the file's SHA-256."""
    for record in log_records(request):
        by_key = {item.key: item for item in record.attributes}
        if (uri := by_key.get(semconv.PAYLOAD_URI)) is not None:
            digest = by_key.get(semconv.PAYLOAD_SHA256)
            yield uri, digest.value.string_value if digest is not None else ""


def mentions_media(data: bytes) -> bool:
    """Whether an encoded request may have a record whose payload is in a file; cheap."""
    return semconv.PAYLOAD_URI.encode() in data


def file_size(record: LogRecord) -> int | None:
    """Bytes of the file of this machine that holds a record's payload; None if its payload is elsewhere.

    A file that is missing counts as 0 bytes; :func:`inline` then raises.
    """
    found = _local_file(record)
    try:
        return found[1].stat().st_size if found is not None else None
    except OSError:
        return 0


def inline(record: LogRecord) -> None:
    """Puts a payload from its file of this machine into the record's body, for a receiver on another machine.

    Its size and SHA-256 stay attributes.

    Raises:
        OSError: the file cannot be read.
    """
    found = _local_file(record)
    assert found is not None
    uri, path = found
    record.body.bytes_value = path.read_bytes()
    record.attributes.remove(uri)
    if not any(item.key == semconv.PAYLOAD_SIZE for item in record.attributes):
        size = record.attributes.add(key=semconv.PAYLOAD_SIZE)
        size.value.int_value = len(record.body.bytes_value)


def _local_file(record: LogRecord) -> tuple[KeyValue, Path] | None:
    """The attribute that names a file of this machine, and the file; None if the payload is elsewhere."""
    uri = next((item for item in record.attributes if item.key == semconv.PAYLOAD_URI), None)
    path = local_path(uri.value.string_value) if uri is not None else None
    return (uri, path) if uri is not None and path is not None else None


def local_path(uri: str) -> Path | None:
    """The file of a URI, if it is one of this machine."""
    parts = urlsplit(uri)
    if parts.scheme in ("file", "local"):
        from urllib.request import url2pathname  # which takes every start 5 ms

        return Path(url2pathname(parts.path))
    return Path(uri) if "://" not in uri else None


def _link(source: Path, target: Path) -> None:
    """Keeps a file under a second name, or a copy of it: all of it or nothing, also on a full disk.

    Raises:
        OSError: it cannot be kept.
    """
    try:
        os.link(source, target)
        return
    except OSError:  # another file system, or one without links
        part = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
