"""Names that MLflow takes, made from any name, and back.

A valid name stays as it is. A character that MLflow refuses becomes ``_xHHHH_``, its code point in
hexadecimal as in Office Open XML (ECMA-376 part 1, 22.4.2.4); a name that already holds such an
escape gets its underscore escaped, so no two names ever become one. The rules are those of
``mlflow/utils/validation.py``: characters, and no name that would resolve to another as a path.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Final

MAX_KEY: Final = 250
"""Characters of a metric's, parameter's or tag's name."""
MAX_SEGMENT: Final = 200
"""Bytes of one segment of an artifact's path: file systems end at 255, and names get suffixes."""
MAX_IMAGE_KEY: Final = 140
"""Characters: MLflow makes one file name of the key, the step, the time, an id and a suffix."""

_EMPTY: Final = "_x_"
_ESCAPE: Final = re.compile(r"_x([0-9A-F]{4,6})_")
_CUT: Final = re.compile(r"_sha256_[0-9a-f]{32}\Z")
_CUT_LENGTH: Final = len("_sha256_") + 32
_RANK_SUFFIX: Final = re.compile(r"/rank_([1-9][0-9]*)\Z")

_KEY_BAD: Final = r"[^/\w.\- ]" if os.name == "nt" else r"[^/\w.\- :]"
_PATH_RULES: Final = (
    r"\A/|(?<=/)/|/\Z"  # MLflow compares with posixpath.normpath, which drops these slashes
    r"|\A\.(?=\.)|(?:(?<=/)|\A)\.(?=\.?(?:/|\Z))"  # a name may not begin with "..", nor hold ./ or ../
)


def _escapes(bad: str) -> re.Pattern[str]:
    """What to escape: bad characters, path rules, and an underscore that would begin an escape."""
    return re.compile(rf"{bad}|{_PATH_RULES}|_(?=x[0-9A-F]{{4,6}}(?:_|/\Z|{bad}))")


_KEY: Final = _escapes(_KEY_BAD)
_IMAGE_KEY: Final = _escapes(r"[^a-zA-Z0-9_\-./ ]")
# In a file's name a server must not decode or split anything: no % ? # : and no back slash.
_SEGMENT: Final = re.compile(
    r"[^\w .\-+=@,~()]|\A[ ]|[ ]\Z|\A\.(?=artifact\.uploading\.)|\A\.(?=\.?\Z)"
    r"|_(?=x[0-9A-F]{4,6}(?:_|[ ]\Z|[^\w .\-+=@,~()]))"
)


def encode(name: str, limit: int = MAX_KEY) -> str:
    """A key for a metric, parameter or tag; the name itself where MLflow takes it."""
    return _cut(name, _escape(_KEY, name), limit)


def decode(key: str) -> str | None:
    """The name that :func:`encode` was given; None where the key is a cut one and does not hold it."""
    if is_cut(key):
        return None
    if key == _EMPTY:
        return ""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), key)


def is_cut(key: str) -> bool:
    """Whether the key stands for a longer name, which then only the run's ``names.json`` holds."""
    return _CUT.search(key) is not None


def metric_key(tag: str, rank: int | None = None) -> str:
    """The key of a series. Ranks above 0 end in ``/rank_<n>``; no tag's own name can end so."""
    if rank is not None and rank > 0:
        suffix = f"/rank_{rank}"
        return encode(tag, MAX_KEY - len(suffix)) + suffix
    key = encode(tag)
    if (match := _RANK_SUFFIX.search(key)) is None:
        return key
    escaped = f"{key[: match.start()]}/rank_x005F_{match[1]}"
    return _cut(tag, escaped, MAX_KEY)


def decode_metric_key(key: str) -> tuple[str | None, int | None]:
    """Tag and rank of a key that :func:`metric_key` made; the tag is None where it was cut."""
    if match := _RANK_SUFFIX.search(key):
        return decode(key[: match.start()]), int(match[1])
    return decode(key), None


def image_key(tag: str) -> str:
    """A key for MLflow's time-stepped images, which take fewer characters than its metrics."""
    return _cut(tag, _escape(_IMAGE_KEY, tag), MAX_IMAGE_KEY)


def segment(name: str) -> str:
    """One safe segment of an artifact's path: never empty, ``.`` or ``..``, no separators."""
    escaped = _escape(_SEGMENT, name)
    if len(escaped.encode()) <= MAX_SEGMENT and not is_cut(escaped):
        return escaped
    stem = escaped.encode()[: MAX_SEGMENT - _CUT_LENGTH].decode(errors="ignore")
    return f"{stem}_sha256_{_digest(name)}"


def path(name: str) -> str:
    """An artifact's path for a ``/`` separated name, which can be absolute or climb no more."""
    return "/".join(segment(part) for part in name.split("/"))


def _escape(pattern: re.Pattern[str], name: str) -> str:
    if not name:
        return _EMPTY
    if name == _EMPTY:
        return "_x005F_x_"
    return pattern.sub(lambda match: f"_x{ord(match[0]):04X}_", name)


def _cut(name: str, escaped: str, limit: int) -> str:
    # A name that looks cut is cut as well: otherwise it could be taken for the longer name.
    if len(escaped) <= limit and not is_cut(escaped):
        return escaped
    return f"{escaped[: limit - _CUT_LENGTH]}_sha256_{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
