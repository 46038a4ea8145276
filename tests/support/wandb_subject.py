"""W&B under test: offline runs in a folder, read back from their logs on disk."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from wandb.proto import wandb_internal_pb2 as internal

from tests.support.subject import StoredMedia, StoredPoint
from tracelet_otel_exporters.wandb.tracker import WandbTracker

_BLOCK = 32768


def records(path: Path) -> Iterator[Any]:
    """The records of a run's log: LevelDB's log format, each a protocol buffer."""
    data = path.read_bytes()
    assert data[:4] in (b":W&B", b"")
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        part = data[position + 7 : position + 7 + length]
        position += 7 + length
        parts = part if kind in (1, 2) else parts + part
        if kind in (1, 4):
            yield internal.Record.FromString(parts)  # pyright: ignore[reportAttributeAccessIssue]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of the history in a run's log."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                _set(row, list(item.nested_key) or [item.key], _value(item.value_json))
            yield row


def decode(key: str) -> str:
    """The name of a key."""
    return "" if key == "%" else unquote(key, errors="surrogatepass")


def tag_and_rank(key: str) -> tuple[str, int | None]:
    """The tag of a metric's key, and the rank if it is above 0."""
    match = re.fullmatch("(.*)/rank_([1-9][0-9]*)", key, re.DOTALL)
    return (decode(match[1]), int(match[2])) if match else (decode(key), None)


def _set(target: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        target = target.setdefault(name, {})
    target[path[-1]] = value


def _value(text: str) -> Any:
    return json.loads(text, parse_int=_whole)


def _whole(text: str) -> float | int:
    return -0.0 if text == "-0" else int(text)


class WandbSubject:
    """W&B in its offline mode.

    Args:
        folder: an empty one.
    """

    name = "wandb"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> WandbTracker:
        return WandbTracker(mode="offline", dir=self.folder)

    def logs(self, run_id: str) -> list[Path]:
        """The logs of a run, oldest first; one that was just opened is written in a moment."""
        deadline = time.monotonic() + 5
        logs = list(self.folder.glob("wandb/*run-*/run-*.wandb"))
        while not all(map(self._run_id, logs)) and time.monotonic() < deadline:
            time.sleep(0.01)
        found = [log for log in logs if self._run_id(log) == run_id]
        return sorted(found, key=lambda log: log.parent.name.split("run-", 1)[1])

    def points(self, run_id: str) -> dict[str, list[StoredPoint]]:
        found: dict[str, list[StoredPoint]] = {}
        for log in self.logs(run_id):
            for row in rows(log):
                for key, value in row.items():
                    if key.startswith("_") or key == "global_step" or isinstance(value, (dict, str)):
                        continue
                    time_ns = round(row["_timestamp"] * 1_000_000) * 1_000
                    point = StoredPoint(row["global_step"], float(value), time_ns)
                    tag, rank = tag_and_rank(key)
                    found.setdefault(f"{tag}/rank_{rank}" if rank else tag, []).append(point)
        return {tag: sorted(points, key=lambda point: point.step) for tag, points in found.items()}

    def params(self, run_id: str) -> dict[str, str]:
        config = {k: v for k, v in self.config(run_id).items() if k not in ("_wandb", "tracelet")}
        return {unquote(name): str(value) for name, value in _flat(config)}

    def tags(self, run_id: str) -> dict[str, str]:
        tags: dict[str, str] = self.config(run_id)["tracelet"]["tags"]
        labels: list[str] = list(self.run(run_id).tags)
        for name, value in tags.items():
            shown = f"{name}:{value}" if value else name
            assert any(label == shown or label.startswith(shown[:40]) for label in labels), shown
        return tags

    def status(self, run_id: str) -> str:
        logs = [
            (log.stat().st_mtime_ns, [r.exit for r in records(log) if r.HasField("exit")])
            for log in self.logs(run_id)
        ]
        if any(not ended for _, ended in logs):
            return "running"
        codes = [
            ended[-1].exit_code
            for _, ended in sorted(logs, key=lambda log: log[0])
            if not ended[-1].not_complete
        ]
        return {0: "finished", 1: "failed", 255: "killed"}[codes[-1]] if codes else "running"

    def description(self, run_id: str) -> dict[str, str]:
        run = self.run(run_id)
        return {"name": run.display_name, "project": run.project, "experiment": run.run_group}

    def parent(self, run_id: str) -> str:
        parent = self.config(run_id)["tracelet"].get("parent", "")
        run = self.run(run_id)
        assert run.job_type == ("trial" if parent else "")
        if parent:
            assert run.run_group == self.run(parent).run_group != ""
        return parent

    def media(self, run_id: str) -> list[StoredMedia]:
        found: list[StoredMedia] = []
        for log in self.logs(run_id):
            for row in rows(log):
                for key, value in row.items():
                    if isinstance(value, dict) and "_type" in value:
                        tag = unquote(key).removesuffix("_table")
                        media = self._medium(log.parent / "files", tag, row["global_step"], value)
                        found.append(media)
        return found

    def files(self, run_id: str) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for log in self.logs(run_id):
            folder = log.parent / "files"
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(folder).as_posix()
                if path.is_file() and not name.startswith("media/"):
                    found[name] = path.read_bytes()
        return found

    def system(self, run_id: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for log in self.logs(run_id):
            for record in records(log):
                for item in record.stats.item:
                    found.setdefault(f"system.{item.key}", []).append(json.loads(item.value_json))
        return found

    def close(self) -> None:
        """Nothing runs."""

    def config(self, run_id: str) -> dict[str, Any]:
        """The run's config as the last log has it."""
        return self._config(self.logs(run_id)[-1])

    def run(self, run_id: str) -> Any:
        """The run's last description."""
        return [record.run for record in records(self.logs(run_id)[-1]) if record.HasField("run")][-1]

    def _run_id(self, log: Path) -> str:
        return self._config(log).get("tracelet", {}).get("run_id", "")

    def _config(self, log: Path) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for record in records(log):
            updates = [*record.run.config.update, *record.config.update]
            for item in updates:
                _set(config, list(item.nested_key) or [item.key], json.loads(item.value_json))
        return config

    def _medium(self, files: Path, tag: str, step: int, value: dict[str, Any]) -> StoredMedia:
        kind: str = value["_type"].removesuffix("-file")
        if "path" not in value:
            return StoredMedia(kind, tag, step, json.dumps(value).encode())
        content = (files / value["path"]).read_bytes()
        if kind == "html":
            text = content.decode().partition(">")[2].removesuffix("</pre>")
            return StoredMedia("text", tag, step, html.unescape(text).encode())
        return StoredMedia("pr_curve" if kind == "table" else kind, tag, step, content)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def make_subject(folder: Path) -> WandbSubject:
    """W&B with its runs below ``folder``."""
    return WandbSubject(folder)
