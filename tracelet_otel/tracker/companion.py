"""The companion file of a run: exactly what its tracker could not keep natively, as JSON lines.

A line is ``{"kind", "tag", "rank", "step", "time_unix_nano", "reason"}``, for a point (kind ``scalar``)
with ``value``: a number, or the text ``NaN``, ``Infinity`` or ``-Infinity``; for a record with ``mime_type``,
``attributes`` and its payload as ``text`` (UTF-8) or ``base64``.

Lines are on the disk from the moment they are known until the tracker has the file, so that a process that
is killed leaves them for the next one that writes the run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tracelet_otel.otlp.records import Record
from tracelet_otel.tracker.interface import PointAside, RecordAside

FOLDER: Final = "tracelet"
"""The files are ``tracelet/companion-<16 hex digits of the SHA-256>.jsonl``: the same content is one file."""

Upload = Callable[[str, Path], None]


class Companions:
    """The companion files of the runs that one exporter writes.

    Args:
        folder: where they are until the tracker has them; made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, run_id: str, lines: Sequence[PointAside | RecordAside]) -> None:
        """Keeps these lines.

        Raises:
            OSError: the folder cannot be written to.
        """
        if not lines:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(_line(line), allow_nan=False) + "\n" for line in lines)
        with self._path(run_id, os.getpid()).open("a", encoding="utf-8") as file:
            file.write(text)

    def upload(self, run_id: str, upload: Upload) -> None:
        """Gives the run's file, with those whose writers are gone, to ``upload(name, path)``.

        Raises:
            OSError: the folder cannot be read or written.
            Exception: what ``upload`` raises; the file stays.
        """
        merge(self._folder, run_id)
        path = self._path(run_id, os.getpid())
        if path.exists():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            upload(f"{FOLDER}/companion-{digest}.jsonl", path)
            path.unlink()

    def _path(self, run_id: str, pid: int) -> Path:
        return self._folder / f"{_quoted(run_id)}.{pid}.jsonl"


def merge(folder: Path, run_id: str) -> None:
    """Merges a run's companion files, ours and those whose writer is gone, into ours.

    What was delivered again, after a process was killed in the middle, is kept aside again: such a line is in
    several files and was logged once. A line that one file has several times was logged several times.

    Raises:
        OSError: the folder cannot be read or written.
    """
    prefix = _quoted(run_id)
    ours = folder / f"{prefix}.{os.getpid()}.jsonl"
    others = [path for path in sorted(folder.glob(f"{prefix}.*.jsonl")) if path != ours and _is_left(path)]
    if not others:
        return
    # Ours first: the file is the same then as if there had been no interruption.
    lines: Counter[bytes] = Counter(ours.read_bytes().splitlines()) if ours.exists() else Counter()
    with ours.open("ab") as file:
        for path in others:
            # The last line may be torn: its writer was killed.
            found = Counter(line for line in path.read_bytes().splitlines(True) if line.endswith(b"\n"))
            for line, count in found.items():
                missing = count - lines[line.rstrip(b"\n")]
                if missing > 0:
                    file.write(line * missing)
                    lines[line.rstrip(b"\n")] += missing
    for path in others:
        path.unlink(missing_ok=True)


def _is_left(path: Path) -> bool:
    pid = path.name.split(".")[-2]
    return pid.isdigit() and not _is_alive(int(pid))


def _quoted(run_id: str) -> str:
    # "*", "?" and "[" would be patterns, "." separates the writer's process id
    return quote(run_id, safe="").replace(".", "%2E")[:200]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _line(line: PointAside | RecordAside) -> dict[str, Any]:
    if isinstance(line, PointAside):
        return {
            "kind": "scalar",
            "tag": line.tag,
            "rank": line.rank,
            "step": line.point.step,
            "value": _number(line.point.value),
            "time_unix_nano": line.point.time_unix_nano,
            "reason": line.reason,
        }
    return {**_record(line.record), "reason": line.reason}


def _record(record: Record) -> dict[str, Any]:
    described: dict[str, Any] = {
        "kind": record.kind,
        "tag": record.tag,
        "step": record.step,
        "time_unix_nano": record.time_unix_nano,
        "mime_type": record.mime_type,
        "attributes": {
            name: _number(value) if isinstance(value, float) else value
            for name, value in record.attributes.items()
        },
    }
    payload = record.read()
    try:
        return {**described, "text": payload.decode()}
    except UnicodeDecodeError:
        return {**described, "base64": base64.b64encode(payload).decode()}


def _number(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
