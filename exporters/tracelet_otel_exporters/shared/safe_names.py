"""Names of safe characters, made from any name, and back; and paths of files that consist of them.

A name of safe characters stays as it is. An unsafe character becomes ``_xHHHH_``, its code point in
hexadecimal as in Office Open XML (ECMA-376 part 1, 22.4.2.4). A name that already holds such an escape gets
its underscore escaped, and one that is too long ends in its hash, so no two names ever become one.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

MAX_SEGMENT: Final = 200
"""Bytes of one segment of a path: file systems end at 255, and names get suffixes."""

_EMPTY: Final = "_x_"
_ESCAPE: Final = re.compile(r"_x([0-9A-F]{4,6})_")
_CUT: Final = re.compile(r"_sha256_[0-9a-f]{32}\Z")
_CUT_LENGTH: Final = len("_sha256_") + 32
# In a file's name a server must not decode or split anything: no % ? # : and no back slash.
_SEGMENT: Final = re.compile(
    r"[^\w .\-+=@,~()]|\A[ ]|[ ]\Z|\A\.(?=artifact\.uploading\.)|\A\.(?=\.?\Z)"
    r"|_(?=x[0-9A-F]{4,6}(?:_|[ ]\Z|[^\w .\-+=@,~()]))"
)


def segment(name: str) -> str:
    """One safe segment of a path: never empty, ``.`` or ``..``, no separators."""
    escaped = escape(_SEGMENT, name)
    if len(escaped.encode()) <= MAX_SEGMENT and not is_cut(escaped):
        return escaped
    stem = escaped.encode()[: MAX_SEGMENT - _CUT_LENGTH].decode(errors="ignore")
    return stem + _hash_suffix(name)


def path(name: str) -> str:
    """A safe path for a ``/`` separated name: never absolute, and never above its folder."""
    return "/".join(segment(part) for part in name.split("/"))


def escape(unsafe: re.Pattern[str], name: str) -> str:
    """The name with what matches escaped; ``unsafe`` must match an underscore that would begin an escape."""
    if not name:
        return _EMPTY
    if name == _EMPTY:
        return "_x005F_x_"
    return unsafe.sub(lambda match: f"_x{ord(match[0]):04X}_", name)


def unescape(escaped: str) -> str:
    """The name that :func:`escape` was given."""
    return "" if escaped == _EMPTY else _ESCAPE.sub(lambda match: chr(int(match[1], 16)), escaped)


def cut(name: str, escaped: str, limit: int) -> str:
    """The escaped name; one that has more than ``limit`` characters ends in the name's hash instead."""
    # A name that looks cut is cut as well: otherwise it could be taken for the longer name.
    if len(escaped) <= limit and not is_cut(escaped):
        return escaped
    return escaped[: limit - _CUT_LENGTH] + _hash_suffix(name)


def is_cut(escaped: str) -> bool:
    """Whether this stands for a longer name, which it does not tell."""
    return _CUT.search(escaped) is not None


def _hash_suffix(name: str) -> str:
    return f"_sha256_{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:32]}"
