"""MLflow for the contract test: a SQLite database of its own, read with SQL, and its files."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from tests.support import mlflow_content
from tests.support.mlflow_content import StoredRun
from tests.support.subject import StoredMedia, StoredPoint
from tracelet_otel_exporters.mlflow.tracker import MLflowTracker

_STATUSES: Final = {"RUNNING": "running", "FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}
_STEP_FOLDERS: Final = ("text", "image", "figure", "audio", "video", "histogram", "pr_curve", "mesh")
_ESCAPE: Final = re.compile(r"_x([0-9A-F]{4,6})_")
_CUT: Final = re.compile(r"_sha256_[0-9a-f]{32}\Z")
_RANK: Final = re.compile(r"/rank_([1-9][0-9]*)\Z")
_IMAGE: Final = re.compile(r"images/(.+)\+step\+(-?\d+)\+timestamp\+\d+\+[^+]+\.png")
_STEP: Final = re.compile(r"(?:.*/)?(-?\d+)[^/]*")
_STAND_IN: Final = "stored natively as a stand-in: "
"""How the reason of a companion line begins that takes the place of a native point, see docs/trackers.md."""
_OWN_TAGS: Final = ("mlflow.", "tracelet.")


class MLflowSubject:
    """MLflow as a :class:`~tests.support.subject.Subject`.

    Args:
        folder: holds ``mlflow.db``, which may be there already: making one takes MLflow seconds.
    """

    name = "mlflow"

    def __init__(self, folder: Path) -> None:
        self._database = folder / "mlflow.db"

    def make(self) -> MLflowTracker:
        return MLflowTracker(f"sqlite:///{self._database}")

    def points(self, run_id: str) -> dict[str, list[StoredPoint]]:
        run = self._run(run_id)
        original = self._names(run, "metrics")
        by_key = mlflow_content.points(self._database, run.id)
        tags = {key: original.get(key) or _unescaped(key) for key in by_key}
        stored: defaultdict[str, list[StoredPoint]] = defaultdict(list)
        for key, points in by_key.items():
            twice = list(tags.values()).count(tags[key]) > 1
            if twice and key.startswith("system/"):
                continue  # the machine's, beside a tag of that name
            stored[tags[key]] += [
                StoredPoint(step, value, time_ms * 1_000_000) for step, value, time_ms in points
            ]
        for line in self._stand_ins(run_id):
            tag = line["tag"] + (f"/rank_{line['rank']}" if line["rank"] else "")
            place = (line["step"], (line["time_unix_nano"] + 500_000) // 1_000_000 * 1_000_000)
            value = math.copysign(sys.float_info.max if math.isinf(line["value"]) else 0.0, line["value"])
            # There is exactly this one; -0.0 equals the 0.0 that it became.
            stored[tag].remove(StoredPoint(place[0], value, place[1]))
        return {tag: sorted(points, key=lambda point: point.step) for tag, points in stored.items()}

    def _stand_ins(self, run_id: str) -> list[dict[str, Any]]:
        """Lines of companion files that say that the point is shown all the same, near its value."""
        lines = {  # a line that was sent twice is there twice, which is for the contract to find
            line
            for name, content in self.files(run_id).items()
            if name.startswith("tracelet/companion-")
            for line in content.decode().splitlines()
        }
        read: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [
            {**line, "value": float(line["value"])}
            for line in read
            if line["kind"] == "scalar" and line["reason"].startswith(_STAND_IN)
        ]

    def params(self, run_id: str) -> dict[str, str]:
        run = self._run(run_id)
        original = self._names(run, "params")
        files = self.files(run_id)
        whole: dict[str, list[Any]] = json.loads(files.get("tracelet/params.json", b"{}"))
        stored = {
            original.get(key) or _unescaped(key): value
            for key, value in mlflow_content.params(self._database, run.id).items()
        }
        return {**stored, **{name: _text(values[-1]) for name, values in whole.items()}}

    def tags(self, run_id: str) -> dict[str, str]:
        run = self._run(run_id)
        original = self._names(run, "tags")
        whole: dict[str, str] = json.loads(self.files(run_id).get("tracelet/tags.json", b"{}"))
        stored = {
            original.get(key) or _unescaped(key): value
            for key, value in mlflow_content.tags(self._database, run.id).items()
            if not key.startswith(_OWN_TAGS)
        }
        return {**stored, **whole}

    def status(self, run_id: str) -> str:
        return _STATUSES[self._run(run_id).status]

    def description(self, run_id: str) -> dict[str, str]:
        run = self._run(run_id)
        project, _, experiment = run.experiment.partition("/")
        return {"name": run.name, "project": project, "experiment": experiment}

    def parent(self, run_id: str) -> str:
        above = mlflow_content.tags(self._database, self._run(run_id).id).get("mlflow.parentRunId")
        return mlflow_content.tags(self._database, above)["tracelet.run.id"] if above else ""

    def media(self, run_id: str) -> list[StoredMedia]:
        original = self._names(self._run(run_id), "files")
        stored: list[StoredMedia] = []
        for path, content in self.files(run_id).items():
            kind, _, rest = path.partition("/")
            if match := _IMAGE.fullmatch(path):
                tag, step = match[1].replace("~", "/"), match[2]
                stored.append(StoredMedia("image", _unescaped(tag), int(step), content))
            elif kind in _STEP_FOLDERS and (match := _STEP.fullmatch(rest)):
                folder = rest.rpartition("/")[0]
                stored.append(
                    StoredMedia(kind, original.get(folder) or _unescaped(folder), int(match[1]), content)
                )
        return stored

    def files(self, run_id: str) -> dict[str, bytes]:
        run = self._run(run_id)
        original = self._names(run, "files")
        return {original.get(path, path): file for path, file in mlflow_content.artifacts(run).items()}

    def system(self, run_id: str) -> dict[str, list[float]]:
        stored = mlflow_content.points(self._database, self._run(run_id).id)
        return {
            _unescaped(key): [point.value for point in points]
            for key, points in stored.items()
            if key.startswith("system/")
        }

    def close(self) -> None:
        pass

    def _run(self, run_id: str) -> StoredRun:
        runs = [
            run
            for run in mlflow_content.runs(self._database)
            if run_id in (run.id, mlflow_content.tags(self._database, run.id).get("tracelet.run.id"))
        ]
        assert len(runs) == 1, [run.id for run in runs]
        return runs[0]

    def _names(self, run: StoredRun, kind: str) -> dict[str, str]:
        path = run.artifacts / "tracelet" / "names.json"
        return json.loads(path.read_bytes()).get(kind, {}) if path.exists() else {}


def original_name(key: str) -> str | None:
    """The name of a key; None where the key is a cut one and does not hold it."""
    return None if _CUT.search(key) else _unescaped(key)


def tag_and_rank(key: str) -> tuple[str | None, int | None]:
    """The tag and the rank of a metric's key; the tag is None where it was cut."""
    if match := _RANK.search(key):
        return original_name(key[: match.start()]), int(match[1])
    return original_name(key), None


def _unescaped(key: str) -> str:
    """By the documented rule, not by the exporter's code: ``_xHHHH_`` is a code point, ``_x_`` no name."""
    if key == "_x_":
        return ""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), key)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)


def make_subject(folder: Path) -> MLflowSubject:
    return MLflowSubject(folder)
