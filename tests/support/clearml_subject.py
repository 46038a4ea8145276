"""ClearML for the contract test: a server of our own, read back from what it stored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.support.clearml_server import ClearMLServer
from tests.support.subject import StoredMedia, StoredPoint
from tracelet_otel_exporters.clearml.tracker import ClearMLTracker

_STATUSES: Final = {
    "created": "running",
    "in_progress": "running",
    "completed": "finished",
    "failed": "failed",
    "stopped": "killed",
}
_KINDS: Final = ("text", "image", "figure", "audio", "video", "histogram", "pr_curve", "mesh")


class ClearMLSubject:
    """ClearML as a :class:`~tests.support.subject.Subject`."""

    name = "clearml"

    def __init__(self, folder: Path) -> None:
        self.server = ClearMLServer()
        lines = [
            f'api.api_server = "{self.server.url}"',
            f'api.web_server = "{self.server.variables()["CLEARML_WEB_HOST"]}"',
            f'api.files_server = "{self.server.files_url}"',
            f'api.credentials.access_key = "{self.server.variables()["CLEARML_API_ACCESS_KEY"]}"',
            f'api.credentials.secret_key = "{self.server.variables()["CLEARML_API_SECRET_KEY"]}"',
        ]
        self.config = folder / "clearml.conf"
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def make(self) -> ClearMLTracker:
        return ClearMLTracker(config_file=self.config)

    def task(self, run_id: str) -> dict[str, Any]:
        """The one task of this run."""
        found = [
            task
            for task in self.server.store.tasks.values()
            if task["id"] == run_id or self._properties(task).get("tracelet_run_id") == run_id
        ]
        assert len(found) == 1, [task["id"] for task in found]
        return found[0]

    def points(self, run_id: str) -> dict[str, list[StoredPoint]]:
        stored: dict[str, list[StoredPoint]] = {}
        names = self._names(run_id)
        for event in self._events(run_id, "training_stats_scalar"):
            if event["metric"].startswith(":monitor:"):
                continue
            tag = names.get((event["metric"], event["variant"])) or _tag(event["metric"], event["variant"])
            point = StoredPoint(event["iter"], event["value"], event["timestamp"] * 1_000_000)
            stored.setdefault(tag, []).append(point)
        return {tag: sorted(points) for tag, points in stored.items()}

    def params(self, run_id: str) -> dict[str, str]:
        sections = self.task(run_id)["hyperparams"]
        return {name: item["value"] for name, item in sections.get("General", {}).items()}

    def tags(self, run_id: str) -> dict[str, str]:
        properties = self._properties(self.task(run_id))
        return {
            name.removeprefix("tag/"): value
            for name, value in properties.items()
            if not name.startswith("tracelet_")
        }

    def status(self, run_id: str) -> str:
        return _STATUSES[self.task(run_id)["status"]]

    def description(self, run_id: str) -> dict[str, str]:
        task = self.task(run_id)
        project = self.server.store.projects[task["project"]]["name"]
        first, _, rest = project.partition("/")
        return {"name": task["name"], "project": first, "experiment": rest}

    def parent(self, run_id: str) -> str:
        above = self.task(run_id).get("parent")
        return self._properties(self.server.store.tasks[above])["tracelet_run_id"] if above else ""

    def media(self, run_id: str) -> list[StoredMedia]:
        samples = self._events(run_id, "training_debug_image")
        stored = [self._media(event, self._file(event["url"])) for event in samples]
        plots = self._events(run_id, "plot")
        return stored + [self._media(event, _drawn(event["plot_str"])) for event in plots]

    def plots(self, run_id: str) -> list[dict[str, Any]]:
        """Plotly figures, as ClearML shows them."""
        return [json.loads(event["plot_str"]) for event in self._events(run_id, "plot")]

    def files(self, run_id: str) -> dict[str, bytes]:
        artifacts = self.task(run_id)["execution"].get("artifacts", {})
        return {artifact["key"]: self._file(artifact["uri"]) for artifact in artifacts.values()}

    def system(self, run_id: str) -> dict[str, list[float]]:
        stored: dict[str, list[float]] = {}
        for event in sorted(self._events(run_id, "training_stats_scalar"), key=lambda event: event["iter"]):
            if event["metric"].startswith(":monitor:"):
                stored.setdefault(f"{event['metric']}/{event['variant']}", []).append(event["value"])
        return stored

    def close(self) -> None:
        self.server.close()

    def _events(self, run_id: str, kind: str) -> list[dict[str, Any]]:
        task = self.task(run_id)["id"]
        return [event for event in self.server.store.events[kind].values() if event["task"] == task]

    def _names(self, run_id: str) -> dict[tuple[str, str], str]:
        names: dict[tuple[str, str], str] = {}
        for name, item in self.task(run_id)["configuration"].items():
            if name.startswith("tracelet.name/"):
                entry = json.loads(item["value"])
                rank = f"/rank_{entry['rank']}" if entry["rank"] else ""
                names[entry["metric"], entry["variant"]] = entry["tag"] + rank
        return names

    def _media(self, event: dict[str, Any], content: bytes) -> StoredMedia:
        kind = event["key"].split("/")[-2]
        assert kind in _KINDS, event["key"]
        names = self._names(event["task"])
        metric, variant = event["metric"], event["variant"]
        return StoredMedia(
            kind, names.get((metric, variant)) or _tag(metric, variant), event["iter"], content
        )

    def _file(self, url: str) -> bytes:
        return self.server.store.files[urlsplit(url).path.lstrip("/")]

    @staticmethod
    def _properties(task: dict[str, Any]) -> dict[str, str]:
        return {name: item["value"] for name, item in task["hyperparams"].get("properties", {}).items()}


def tag_and_rank(metric: str, variant: str) -> tuple[str, int | None] | None:
    """What a name stands for, by the documented rule and not by the exporter's code; None for a cut one."""
    if re.search(r"_sha256_[0-9a-f]{32}\Z", metric):
        return None
    rank = None
    if match := re.search(r"/rank_([1-9][0-9]*)\Z", variant):
        rank, variant = int(match[1]), variant[: match.start()]
    if variant.startswith("/"):
        return metric + variant, rank
    return metric if metric == variant else f"{metric}/{variant}", rank


def _tag(metric: str, variant: str) -> str:
    found = tag_and_rank(metric, variant)
    assert found is not None, metric
    return found[0] + (f"/rank_{found[1]}" if found[1] else "")


def _drawn(plot: str) -> bytes:
    """What was drawn: a figure holds it in a field that is for such things."""
    meta = json.loads(plot)["layout"].get("meta")
    return plot.encode() if meta is None else meta["tracelet"].encode()


def make_subject(folder: Path) -> ClearMLSubject:
    return ClearMLSubject(folder)
