"""Reads the log of a W&B run on disk, ``run-<id>.wandb``, for what a run that is opened again needs.

The log is what ``wandb-core`` writes in every mode: protocol buffers (``wandb_internal.proto``) in LevelDB's
log format with a header of seven bytes (``core/internal/transactionlog`` in W&B's sources; the format is
LevelDB's ``doc/log_format.md``). W&B's Python package has no reader of it.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from tracelet_otel.foundation.guard import log_once
from tracelet_otel_exporters.wandb import ledger, private

_HEADER: Final = 7
"""Bytes: ``:W&B``, a magic number and a version; and as many before each part of a record."""
_BLOCK: Final = 32 * 1024
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(slots=True)
class Found:
    """What the logs of a run contain, the newest last."""

    ledger: dict[str, dict[str, object]] = field(default_factory=dict[str, "dict[str, object]"])
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Project, group, job type, name and tags, by their names in ``wandb.Settings``."""
    rows: int = 0
    """Of the history."""


def logs(folder: Path, run_id: str) -> list[Path]:
    """The logs of a run below a ``wandb`` folder, oldest first."""
    found = {path.resolve() for path in folder.glob(f"*/run-{run_id}.wandb")}  # latest-run is a link
    return sorted(found, key=lambda path: path.parent.name.split("run-", 1)[-1])


def read(paths: Iterable[Path]) -> Found:
    """Reads all logs of one run; a log that ends in the middle of a record is read up to there."""
    found = Found()
    parse = private.RECORD.get().FromString
    for path in paths:
        for data in _records(path.read_bytes()):
            try:
                record = parse(data)
            except DecodeError as error:  # a loss of power left other bytes
                log_once(f"damaged {path}", logging.WARNING, "%s: a record is skipped: %s", path, error)
                continue
            kind = record.WhichOneof("record_type")
            if kind == "history":
                found.rows += 1
            elif kind == "run":
                run = record.run
                told: dict[str, Any] = {"project": run.project, "run_group": run.run_group}
                told |= {"run_name": run.display_name, "run_job_type": run.job_type}
                told["run_tags"] = tuple(run.tags)
                found.settings |= {name: value for name, value in told.items() if value}
                _update(found.config, run.config)
            elif kind == "config":
                _update(found.config, record.config)
            elif kind == "summary":
                for item in record.summary.update:
                    if len(item.nested_key) == 2 and item.nested_key[0] in ledger.KEYS:
                        entry, member = item.nested_key
                        found.ledger.setdefault(entry, {})[member] = json.loads(item.value_json)
    return found


def is_ended(path: Path) -> bool:
    """Whether the log has the record of the run's end, or of this process's part in it."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = file.seek(max(0, (size - 1) // _BLOCK - 1) * _BLOCK)  # records begin anew with blocks
            last = [b"", *_records(file.read(), 0 if start else _HEADER)][-1]
    except OSError:
        return False
    return private.RECORD.get().FromString(last).HasField("exit")


def _update(config: dict[str, Any], record: Any) -> None:
    for item in record.update:
        path = list(item.nested_key) or [item.key]
        target = config
        for name in path[:-1]:
            target = target.setdefault(name, {})
        target[path[-1]] = json.loads(item.value_json)
    for item in record.remove:
        config.pop(item.key, None)


def _records(data: bytes, position: int = _HEADER) -> Iterator[bytes]:
    """The records in ``data``, which begins at a block; one that began in an earlier block is left out."""
    parts: bytes | None = None
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, position)
        part = data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if len(part) < length or kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or not checksum:
            return  # written while the process was killed, or not written yet
        if kind in (_FULL, _FIRST):
            parts = part
        elif parts is not None:
            parts += part
        if kind in (_FULL, _LAST) and parts is not None:
            yield parts
