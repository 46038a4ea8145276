"""A tracker that is a folder of JSON files, one subfolder a run."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tracelet_otel.foundation.errors import PermanentError, TransientError
from tracelet_otel.otlp.records import Record, RunInfo, Series, SystemPoint
from tracelet_otel.semconv import Kind, Status
from tracelet_otel.tracker.interface import Capabilities, Outcome, Problem


class JsonFolderTracker:
    """Writes runs to a folder.

    Args:
        folder: where to; ``JSON_FOLDER``, else ``runs`` below the current folder, if None.
    """

    name = "json_folder"
    library = "json"
    capabilities = Capabilities(
        time_resolution_ns=1,
        keeps_nan=True,
        keeps_infinity=True,
        keeps_repeated_step=True,
        idempotent_retry=True,
    )

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        if not isinstance(folder, (str, os.PathLike, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"folder must be a path, got {folder!r}")
        self._folder = Path(folder or os.environ.get("JSON_FOLDER") or "runs").absolute()
        self._writer = uuid.uuid4().hex  # each client appends to files of its own
        self._known: dict[str, set[str]] = {}  # by run: the lines of points that it has

    def load(self) -> None:
        """There is no client library to import."""

    def connect(self) -> None:
        """Reaches the backend: the folder can be written to."""
        with _Errors():
            self._folder.mkdir(parents=True, exist_ok=True)

    def open_run(self, run: RunInfo) -> str:
        """Finds or creates the run's folder; what is empty keeps what was there."""
        path = self._path(run.id) / "run.json"
        with _Errors():
            about: dict[str, Any] = (
                json.loads(path.read_bytes()) if path.exists() else {"id": run.id, "tags": {}}
            )
            for key in ("name", "project", "experiment", "parent"):
                about[key] = getattr(run, key) or about.get(key, "")
            about["tags"].update(run.tags)
            about["status"] = "running"
            _write(path, _json(about))
            if run.id not in self._known:
                files = path.parent.glob("points/*.jsonl")
                self._known[run.id] = {_digest(line) for file in files for line in whole_lines(file)}
        return str(path.parent)

    def write_points(self, run_id: str, series: Sequence[Series]) -> Outcome:
        """Appends a line for each series, unless the same line is there: then the data came a second time."""
        known = self._run(run_id)
        lines: dict[str, bytes] = {}
        for one in series:
            points = [[step, _number(value), time_ns] for step, value, time_ns in one.points]
            line = _json({"tag": one.tag, "rank": one.rank, "sequence": one.sequence, "points": points})
            if (digest := _digest(line)) not in known:
                lines[digest] = line
        self._append(run_id, "points", lines.values())
        known.update(lines)
        return Outcome(accepted=sum(len(one.points) for one in series))

    def write_record(self, record: Record) -> Outcome:
        """Writes the payload's exact bytes, and a JSON file about it beside them."""
        self._run(record.run_id)
        if record.kind not in get_args(Kind):
            return _rejected(record, f"unknown kind of record: {record.kind}")
        try:
            content = record.read()
            if record.kind in ("params", "tags") and not isinstance(json.loads(content), dict):
                raise ValueError("the payload is not a JSON object")
        except (FileNotFoundError, ValueError) as error:  # this record is broken, and will stay so
            return _rejected(record, str(error))
        except OSError as error:
            raise TransientError(str(error)) from error
        about = {
            "kind": record.kind,
            "tag": record.tag,
            "step": record.step,
            "time_unix_nano": record.time_unix_nano,
            "mime_type": record.mime_type,
            "attributes": record.attributes,
        }
        self._store(record.run_id, "records", about, content)
        return Outcome(accepted=1)

    def write_system(self, run_id: str, points: Sequence[SystemPoint]) -> Outcome:
        """Appends a line for each measurement, under OpenTelemetry's name for it."""
        self._run(run_id)
        self._append(run_id, "system", (_json(point._asdict()) for point in points))
        return Outcome(accepted=len(points))

    def write_file(self, run_id: str, name: str, path: Path) -> None:
        """Copies the file; one of the same name is replaced."""
        self._run(run_id)
        with _Errors():
            content = path.read_bytes()
        self._store(run_id, "files", {"name": name}, content)

    def close_run(self, run_id: str, status: Status) -> Outcome:
        """Sets the status; everything else is on the disk already."""
        self._run(run_id)
        path = self._path(run_id) / "run.json"
        with _Errors():
            _write(path, _json({**json.loads(path.read_bytes()), "status": status, "ended": time.time()}))
        del self._known[run_id]
        return Outcome()

    def close(self) -> None:
        """Nothing is open between calls."""
        self._known.clear()

    def _path(self, run_id: str) -> Path:
        return self._folder / _digest(run_id.encode())  # an id may hold anything, a folder's name may not

    def _run(self, run_id: str) -> set[str]:
        if run_id not in self._known:
            raise PermanentError(f"run {run_id} is not open")
        return self._known[run_id]

    def _append(self, run_id: str, kind: str, lines: Iterable[bytes]) -> None:
        path = self._path(run_id) / kind / f"{self._writer}.jsonl"
        with _Errors():
            path.parent.mkdir(exist_ok=True)
            whole = path.stat().st_size if path.exists() else 0
            try:
                with path.open("ab") as file:
                    file.writelines(line + b"\n" for line in lines)
            except OSError:  # a full disk: what was written in part is sent again
                os.truncate(path, whole)
                raise

    def _store(self, run_id: str, kind: str, about: Mapping[str, Any], content: bytes) -> None:
        described = _json(about)
        path = self._path(run_id) / kind / _digest(described if kind == "files" else described + content)
        with _Errors():
            _write(path, content)
            _write(path.with_suffix(".json"), described)  # last: a payload without it does not count


class _Errors:
    """Translates the file system's errors. Most are temporary: a full disk, a network folder that is down."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (PermissionError, FileExistsError, NotADirectoryError)):
            raise PermanentError(str(error)) from error
        if isinstance(error, OSError):
            raise TransientError(str(error)) from error


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file. What comes after the last line break was never acknowledged."""
    return path.read_bytes().split(b"\n")[:-1]


def _write(path: Path, content: bytes) -> None:
    """Writes the whole file or nothing, even if the process is killed meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)


def _rejected(record: Record, reason: str) -> Outcome:
    return Outcome(rejected=[Problem(record.tag or record.kind, reason)])


def _json(value: object) -> bytes:
    return json.dumps(value, default=repr, sort_keys=True).encode()


def _number(value: float) -> float | str:
    return value if abs(value) < float("inf") else str(value)  # JSON has no NaN and no infinity


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
