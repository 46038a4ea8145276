"""AIM for the contract test: a repository on disk, read back through AIM's own ``Repo`` and ``Run``."""

from __future__ import annotations

import functools
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

from tests.support.subject import StoredMedia, StoredPoint
from tracelet_otel_exporters.aim.runs import run_hash
from tracelet_otel_exporters.aim.tracker import AimTracker

_KINDS: Final = {
    "aim.image": "image",
    "aim.audio": "audio",
    "aim.text": "text",
    "aim.distribution": "histogram",
    "aim.figure": "pr_curve",
}


class AimSubject:
    """AIM as a :class:`~tests.support.subject.Subject`."""

    name = "aim"

    def __init__(self, folder: Path, location: str | None = None) -> None:
        self.folder = folder / "repository"
        self.folder.mkdir(exist_ok=True)
        self.location = location or str(self.folder)

    def make(self) -> AimTracker:
        return AimTracker(self.location)

    def points(self, run_id: str) -> dict[str, list[StoredPoint]]:
        stored: dict[str, list[StoredPoint]] = {}
        for name, context, trace in self._traces(run_id, "float", "number"):
            if name.startswith("__system__"):
                continue
            tag = context.get("tag", name)
            if "rank" in context:
                tag = f"{tag}/rank_{context['rank']}"
            for step, value, seconds in _rows(self._run(run_id), trace):
                point = StoredPoint(step, value, round(seconds * 1e6) * 1000)
                stored.setdefault(tag, []).append(point)
        return {tag: sorted(points, key=lambda point: point.step) for tag, points in stored.items()}

    def params(self, run_id: str) -> dict[str, str]:
        params: dict[str, Any] = self._run(run_id)[...]
        ours = {
            name: value for name, value in params.items() if name not in ("tracelet_run", "__system_params")
        }
        return dict(_flat(ours))

    def tags(self, run_id: str) -> dict[str, str]:
        return self._run(run_id).get(("tracelet_run", "tags"), {})

    def status(self, run_id: str) -> str:
        run = self._run(run_id)
        status = run["tracelet_run", "status"]
        assert (run.end_time is None) == (status == "running")
        tags = self._props(run_id).tags
        for word in ("failed", "killed"):
            assert (word in tags) == (status == word)
        return status

    def description(self, run_id: str) -> dict[str, str]:
        ours = self._run(run_id)["tracelet_run"]
        if not ours.get("parent"):
            assert self._props(run_id).experiment in (ours.get("experiment"), ours.get("project"), "default")
        return {
            "name": self._props(run_id).name,
            "project": ours.get("project", ""),
            "experiment": ours.get("experiment", ""),
        }

    def parent(self, run_id: str) -> str:
        parent = self._run(run_id)["tracelet_run"].get("parent", "")
        props = self._props(run_id)
        assert [tag for tag in props.tags if tag.startswith("parent:")] == (
            [f"parent:{run_hash(parent)}"] if parent else []
        )
        if parent:
            assert props.experiment == self._props(parent).experiment != "default"
        return parent

    def media(self, run_id: str) -> list[StoredMedia]:
        stored: list[StoredMedia] = []
        run = self._run(run_id)
        for name, context, trace in self._traces(run_id, *_KINDS):
            if context.get("kind") == "file":
                continue
            for step, value, _ in _rows(run, trace):
                kind = _KINDS[value.AIM_NAME]
                if kind == "histogram":
                    weights, edges = value.to_np_histogram()
                    content = json.dumps({"weights": weights.tolist(), "edges": edges.tolist()}).encode()
                else:
                    data = value.storage["data"].load()
                    content = data.encode() if isinstance(data, str) else data
                stored.append(StoredMedia(kind, context.get("tag", name), step, content))
        return stored

    def files(self, run_id: str) -> dict[str, bytes]:
        run = self._run(run_id)
        stored: dict[str, bytes] = {}
        for name, artifact in run.artifacts.items():
            original = artifact.storage.get("original_name", name)
            stored[original] = Path(artifact.uri.removeprefix("file://")).read_bytes()
        for name, context, trace in self._traces(run_id, "aim.text"):
            if context.get("kind") == "file":
                for _, value, _ in _rows(run, trace):
                    stored[name] = value.storage["content"].load()
        return stored

    def system(self, run_id: str) -> dict[str, list[float]]:
        stored: dict[str, list[float]] = {}
        for name, context, trace in self._traces(run_id, "float"):
            if name.startswith("__system__"):
                key = name + "".join(f" {key}={value}" for key, value in sorted(context.items()))
                rows = sorted(_rows(self._run(run_id), trace), key=lambda row: row[0])
                stored[key] = [value for _, value, _ in rows]
        return stored

    def close(self) -> None:
        pass

    def _run(self, run_id: str) -> Any:
        """The run as AIM's own reader has it, straight from its chunk: without the index."""
        return _Reader(self.folder, run_hash(run_id))

    def _props(self, run_id: str) -> Any:
        return self._run(run_id).props

    def _traces(self, run_id: str, *dtypes: str) -> list[tuple[str, dict[str, Any], Any]]:
        run = self._run(run_id)
        found: list[tuple[str, dict[str, Any], Any]] = []
        for context_id, names in run.meta.get("traces", {}).items():
            for name, info in names.items():
                if info["dtype"] in dtypes:
                    context = run.meta["contexts", context_id]
                    found.append((name, context, (info["version"], context_id, name)))
        return found


class _Reader:
    """What a test asks of a run, through AIM's trees."""

    def __init__(self, folder: Path, hash_: str) -> None:
        from aim.sdk.repo import Repo

        self.folder = folder
        self.hash = hash_
        repo: Any = Repo(str(folder))
        options: dict[str, Any] = {"read_only": True, "skip_read_optimization": True}
        self.meta = repo.request_tree("meta", hash_, **options).subtree(("meta", "chunks", hash_))
        self.seqs = repo.request_tree("seqs", hash_, **options).subtree("seqs")
        self.props = repo.request_props(hash_, read_only=True)

    def __getitem__(self, key: Any) -> Any:
        return self.meta.subtree("attrs").collect(key)

    def get(self, key: Any, default: Any) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    @property
    def end_time(self) -> Any:
        return self.meta["end_time"]

    @property
    def artifacts(self) -> dict[str, Any]:
        return self.meta.get("artifacts", {})


def _rows(run: Any, trace: tuple[int, int, str]) -> list[tuple[int, Any, float]]:
    version, context_id, name = trace
    root = ("v2", "chunks") if version == 2 else ("chunks",)
    for _ in range(100):
        series = run.seqs.subtree((*root, run.hash, context_id, name))
        times = dict(series.subtree("time").items())
        values = dict(series.subtree("val").items())
        steps = dict(series.subtree("step").items()) if version == 2 else {key: key for key in values}
        if values.keys() == times.keys() == steps.keys():
            return [(steps[key], value, times[key]) for key, value in values.items()]
        # A server that is writing has just removed a file that we were to read, and RocksDB says nothing.
        run = _Reader(run.folder, run.hash)
    raise AssertionError(f"{name} has steps, values and times that do not fit each other")


def _flat(params: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in params.items():
        if isinstance(value, dict) and value:
            found += _flat(value, f"{prefix}{name}/")
        else:
            found.append(
                (f"{prefix}{name}", json.dumps(value) if isinstance(value, (list, dict)) else str(value))
            )
    return found


def make_subject(folder: Path) -> AimSubject:
    """AIM in a folder of its own."""
    return AimSubject(folder)


def empty_repository() -> Path:
    """The ``.aim`` of an empty repository, to be copied: AIM takes seconds to make one."""
    return Path(_repository().name, ".aim")


@functools.cache
def _repository() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="tests-aim-", dir="/tmp")  # not the test's, which is removed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SQLAlchemy
        tracker = AimTracker(folder.name)
        tracker.load()
        tracker.close()
    return folder
