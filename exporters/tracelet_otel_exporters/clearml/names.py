"""Names in ClearML: a tag as *metric* (a chart's title) and *variant* (a line in it).

As in ClearML's own TensorBoard hook (``clearml/binding/frameworks/tensorflow_bind.py``, ``_add_scalar``),
what is before the last slash is the title and what is after it the series; a tag without a slash is both. The
hook joins what is left with underscores, which makes one name of several; here the slashes stay. A rank above
0 is a series of its own beside the others: ``train/rank_1``.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

MAX_BYTES: Final = 1000
"""Of a title or a series. Elasticsearch refuses a term over 32,766 bytes, and with it the whole request."""

_KEPT: Final = 200
_RESERVED: Final = ":monitor:"
"""Titles that begin so are what ClearML measures of the machine, in charts of their own."""
_CUT: Final = re.compile(r"_sha256_[0-9a-f]{32}\Z")
_RANK: Final = re.compile(r"/rank_([1-9][0-9]*)\Z")


class Name(NamedTuple):
    """Where a tag is in ClearML."""

    metric: str
    variant: str
    is_exact: bool = True
    """Whether the name tells the tag and the rank; where not, the task has to hold them."""

    @property
    def key(self) -> str | None:
        """What tells events of this name from another's, where ClearML's own way cannot.

        The server identifies an event by ``task-iter-metric-variant-key``, so ``a-b`` and ``c`` are the
        same as ``a`` and ``b-c`` (``apiserver/bll/event/event_bll.py``). The title's length tells them apart.
        """
        return str(len(self.metric)) if "-" in self.metric or "-" in self.variant else None


def encode(tag: str, rank: int | None = None) -> Name:
    """The place of a tag; no two tags or ranks have the same."""
    metric, slash, variant = tag.rpartition("/")
    if not slash:
        metric = tag
    elif metric == variant:
        variant = f"/{variant}"  # "a/a" would else be "a"
    ambiguous = _RANK.search(variant) is not None  # "rank_1/rank_1" would else be "rank_1/" of rank 1
    if rank:
        variant = f"{variant}/rank_{rank}"
    if ambiguous or not (_is_valid(metric) and _is_valid(variant)):
        # Cut; the hash tells it from others.
        digest = hashlib.sha256(f"{rank or 0}/{tag}".encode(errors="surrogatepass")).hexdigest()[:32]
        title = clean(metric)[:_KEPT].removeprefix(":")
        return Name(f"{title}_sha256_{digest}", clean(variant)[:_KEPT].lstrip("/"), is_exact=False)
    return Name(metric, variant)


def clean(text: str) -> str:
    """Text that can be encoded: a lone surrogate, which no encoder of the server takes, is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def segment(name: str) -> str:
    """A safe and readable part of a file's path on a file server; names that differ may become one."""
    return re.sub(r"[^A-Za-z0-9_=-]|\A\.|(?<=\.)\.", "_", name)[:60] or "_"


def _is_valid(text: str) -> bool:
    if text.startswith(_RESERVED) or _CUT.search(text) or text != clean(text):
        return False
    return len(text.encode()) <= MAX_BYTES
