"""Names that W&B takes, made from any name so that it can be read back.

W&B takes nearly every name of a metric, so nearly all stay. Changed are those that it keeps for itself or
does not show: a first underscore (W&B hides such keys, and ``_step``, ``_runtime``, ``_timestamp`` and
``_wandb`` are its own), our step metric, control characters, and no name at all. Such a character becomes
``%HH``, its bytes in hexadecimal as in URLs (RFC 3986, 2.1); a name that already holds such an escape gets
its percent sign escaped, so no two names ever become one. Ids, projects and files have rules of their own.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from tracelet_otel_exporters.shared import safe_names

STEP: Final = "global_step"
"""Our step metric, under the name that W&B's own TensorBoard sync gives it."""
CONFIG: Final = "tracelet"
"""The entry of a run's config that holds what W&B has no place for: original names, id and tags."""
MAX_TAG: Final = 64
"""Characters of a run's tag: ``Settings.validate_run_tags``."""
MAX_PROJECT: Final = 128
"""Characters: ``Settings.validate_project``."""
MAX_SEGMENT: Final = 150
"""Bytes of one segment of a media key: W&B makes a file name of it, the step, a hash and a suffix."""

_EMPTY: Final = "%"
_BAD: Final = re.compile(r"\A_|[\x00-\x1f\x7f\ud800-\udfff]|\A%\Z|%(?=[0-9A-Fa-f]{2})")
_RANK_SUFFIX: Final = re.compile(r"/rank_(?=[1-9][0-9]*\Z)")
_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
_HASHED_ID: Final = re.compile(r"sha256-[0-9a-f]{40}")
_PROJECT_BAD: Final = re.compile(r"[/\\#?%:\x00-\x1f\x7f\ud800-\udfff]|_(?=x[0-9A-F]{2,6}_)")
_RESERVED_FILES: Final = {
    *("wandb-metadata.json", "wandb-summary.json", "wandb-history.jsonl", "wandb-events.jsonl"),
    *("config.yaml", "requirements.txt", "output.log", "diff.patch", "conda-environment.yaml"),
}


def encode(name: str) -> str:
    """A key of a metric; the name itself where W&B takes it and shows it."""
    if name.isalnum():  # nearly every name is or becomes itself: the quick way out
        return name
    if not name:
        return _EMPTY
    if name == STEP:
        return f"%{ord(name[0]):02X}{name[1:]}"
    return _BAD.sub(_percent, name)


def metric_key(tag: str, rank: int | None = None) -> str:
    """The key of a series. Ranks above 0 end in ``/rank_<n>``; no tag's own name can end so."""
    key = encode(tag)
    if rank is not None and rank > 0:
        return f"{key}/rank_{rank}"
    return _RANK_SUFFIX.sub("/rank%5F", key)


def config_key(name: str) -> str:
    """A key of the run's config: as a metric's, and never our own entry."""
    if name == CONFIG:
        return f"%{ord(name[0]):02X}{name[1:]}"
    return name if name == STEP else encode(name)


def media_key(tag: str, rank: int | None = None, index: int = 0) -> str:
    """The key of an image, sound or text: W&B makes a path of it, so long segments are cut with a hash."""
    key = metric_key(f"{tag}/{index}" if index else tag, rank)
    parts = (part.replace(".", "%2E") if part in (".", "..") else part for part in key.split("/"))
    return "/".join(map(_cut_segment, parts))


def run_id(run: str) -> str:
    """A valid W&B run id; the id itself if it is one, else a hash of it."""
    if _RUN_ID.fullmatch(run) and not _HASHED_ID.fullmatch(run):
        return run
    return f"sha256-{_digest(run)}"


def project(name: str) -> str:
    """A valid project: refused characters become ``_xHH_``, too long ones are cut with a hash."""
    escaped = _PROJECT_BAD.sub(lambda match: f"_x{ord(match[0]):02X}_", name)
    return _cut(name, escaped, MAX_PROJECT)


def group(name: str) -> str:
    """A valid group; W&B limits it as the project."""
    return _cut(name, name.encode(errors="replace").decode(), MAX_PROJECT)


def tag(name: str, value: str) -> str:
    """A label ``name:value``, or ``name`` where the value is empty; too long ones are cut with a hash."""
    label = f"{name}:{value}" if value else name
    return _cut(label, label.encode(errors="replace").decode() or _EMPTY, MAX_TAG)


def file(name: str) -> str:
    """A path in the run's files that does not leave their folder and is not one of W&B's own."""
    path = safe_names.path(name)
    if path in _RESERVED_FILES:
        return f"_x{ord(path[0]):04X}_{path[1:]}"
    return path


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogatepass"))


def _cut(name: str, escaped: str, limit: int) -> str:
    return escaped if len(escaped) <= limit else f"{escaped[: limit - 17]}-{_digest(name)[:16]}"


def _cut_segment(part: str) -> str:
    encoded = part.encode()
    if len(encoded) <= MAX_SEGMENT:
        return part
    return f"{encoded[: MAX_SEGMENT - 17].decode(errors='ignore')}-{_digest(part)[:16]}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:40]
