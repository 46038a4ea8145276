"""The tracker of ``docs/add-a-tracker.md`` for the contract test: a folder of JSON files, as they are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.fifth_tracker.json_folder import JsonFolderTracker
from tests.support.subject import StoredMedia, StoredPoint

_SHOWN: Final = ("text", "image", "figure", "audio", "video", "histogram", "pr_curve", "mesh", "layout")


class FifthSubject:
    """The folder as a :class:`~tests.support.subject.Subject`."""

    name = "json_folder"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "runs"
        self._found: defaultdict[str, list[Path]] = defaultdict(list)

    def make(self) -> JsonFolderTracker:
        return JsonFolderTracker(self._folder)

    def points(self, run_id: str) -> dict[str, list[StoredPoint]]:
        stored: defaultdict[str, list[StoredPoint]] = defaultdict(list)
        for line in self._lines(run_id, "points"):
            tag = line["tag"] + (f"/rank_{line['rank']}" if line["rank"] else "")
            stored[tag] += [StoredPoint(step, float(value), time) for step, value, time in line["points"]]
        return {tag: sorted(points, key=lambda point: point.step) for tag, points in stored.items()}

    def params(self, run_id: str) -> dict[str, str]:
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for content in self._payloads(run_id, "params")
            for name, value in _flat(json.loads(content))
        }

    def tags(self, run_id: str) -> dict[str, str]:
        tags = dict(self._about(run_id)["tags"])
        for content in self._payloads(run_id, "tags"):
            tags.update(json.loads(content))
        return tags

    def status(self, run_id: str) -> str:
        return self._about(run_id)["status"]

    def description(self, run_id: str) -> dict[str, str]:
        about = self._about(run_id)
        return {key: about[key] for key in ("name", "project", "experiment")}

    def parent(self, run_id: str) -> str:
        return self._about(run_id)["parent"]

    def media(self, run_id: str) -> list[StoredMedia]:
        return [
            StoredMedia(about["kind"], about["tag"], about["step"], content)
            for about, content in self._stored(run_id, "records")
            if about["kind"] in _SHOWN
        ]

    def files(self, run_id: str) -> dict[str, bytes]:
        files = {about["name"]: content for about, content in self._stored(run_id, "files")}
        for number, (about, content) in enumerate(self._stored(run_id, "records")):
            if about["kind"] not in _SHOWN:
                name = about["attributes"].get("tracelet.file.name", f"{about['kind']}-{number}")
                files[name] = content
                files[f"{name}.json"] = json.dumps(about).encode()
        return files

    def system(self, run_id: str) -> dict[str, list[float]]:
        stored: defaultdict[str, list[float]] = defaultdict(list)
        for line in self._lines(run_id, "system"):
            stored[f"{line['name']}{sorted(line['attributes'].items())}"].append(line["value"])
        return dict(stored)

    def close(self) -> None:
        pass

    def _run(self, run_id: str) -> Path:
        if run_id not in self._found:
            self._found.clear()
            for path in self._folder.glob("*/run.json"):
                self._found[_read(path)["id"]].append(path.parent)
        [found] = self._found.get(run_id, [])
        return found

    def _about(self, run_id: str) -> dict[str, Any]:
        return _read(self._run(run_id) / "run.json")

    def _lines(self, run_id: str, kind: str) -> Iterator[dict[str, Any]]:
        for path in self._run(run_id).glob(f"{kind}/*.jsonl"):
            yield from map(json.loads, path.read_bytes().splitlines())

    def _stored(self, run_id: str, kind: str) -> list[tuple[dict[str, Any], bytes]]:
        paths = self._run(run_id).glob(f"{kind}/*.json")
        found = [(_read(path), path.with_suffix("").read_bytes()) for path in paths]
        return sorted(found, key=lambda item: item[0].get("time_unix_nano", 0))

    def _payloads(self, run_id: str, kind: str) -> list[bytes]:
        return [content for about, content in self._stored(run_id, "records") if about["kind"] == kind]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def make_subject(folder: Path) -> FifthSubject:
    return FifthSubject(folder)
