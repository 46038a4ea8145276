"""Events as ClearML's server keeps them: see the table of :mod:`tests.support.clearml_server`."""

from __future__ import annotations

import hashlib
import math
import struct
import time
import uuid
from typing import Any

PAGE = 500
EVENT_PAGE = 10_000
MAX_TERM = 32_766
EVENT_TYPES = ("training_stats_scalar", "training_stats_vector", "training_debug_image", "plot", "log")

Data = dict[str, Any]


class ApiError(Exception):
    def __init__(self, code: int, subcode: int, message: str, **data: Any) -> None:
        self.code, self.subcode, self.data = code, subcode, data
        self.text = message + (": " if data else "") + ", ".join(f"{k}={v}" for k, v in data.items())
        super().__init__(self.text)


def required(data: Data, name: str) -> Any:
    if data.get(name) is None:
        raise ApiError(400, 11, "Missing required fields", field=name)
    return data[name]


class Events:
    """The services ``events.*``, for a store that has tasks and models."""

    tasks: dict[str, Data]
    models: dict[str, Data]

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Data]] = {kind: {} for kind in EVENT_TYPES}

    def now(self) -> str:
        raise NotImplementedError

    def _task(self, data: Data) -> Data:
        raise NotImplementedError

    def events_add(self, data: Data) -> Data:
        return self.add_events([data])

    def add_events(self, events: list[Data]) -> Data:
        if not events:
            raise ApiError(400, 17, "Batch request contains no items")
        problems: dict[str, int] = {}
        added = 0
        refused = ""

        def problem(text: str) -> None:
            problems[text] = problems.get(text, 0) + 1

        for event in events:
            kind = event.get("type")
            if kind is None:
                problem("Event must have a 'type' field")
                continue
            kind = kind.replace(" ", "_")
            if kind not in EVENT_TYPES:
                problem(f"Invalid event type {kind}")
                continue
            target = event.get("task")
            if target is None:
                problem("Event must have a 'task' field")
                continue
            known = self.models if event.get("model_event") else self.tasks
            if target not in known or known[target].get("status") in ("publishing", "published"):
                problem(f"Invalid task id {target}")
                continue
            if event.get("iter") is not None:
                event["iter"] = int(event["iter"])
                if not -(2**63) <= event["iter"] < 2**63:
                    refused = "1 document(s) failed to index."
                    continue
            event.setdefault("timestamp", int(time.time() * 1000))
            event["metric"], event["variant"] = event.get("metric") or "", event.get("variant") or ""
            event["type"] = kind
            if not _indexable(event):
                refused = "1 document(s) failed to index."
                continue
            fields = [
                str(event[name]) for name in ("task", "iter", "metric", "variant", "key") if name in event
            ]
            identity = uuid.uuid4().hex
            if kind != "log":
                identity = hashlib.md5("-".join(fields).encode()).hexdigest()
            self.events[kind][identity] = event
            added += 1
            task = self.tasks.get(target)
            if task is not None:
                task["last_iteration"] = max(task["last_iteration"], event.get("iter") or 0)
                task["last_update"] = self.now()
        if refused:
            raise ApiError(500, 100, f"General data error ({refused})")
        if not added:
            raise ApiError(400, 131, "Events not added", **problems)
        return {"added": added, "errors": sum(problems.values()), "errors_info": problems}

    def events_get_task_events(self, data: Data) -> Data:
        kind = data.get("event_type")
        wanted = {m["metric"]: m.get("variants") for m in data.get("metrics") or []}
        found = [
            event
            for one in ([kind] if kind else EVENT_TYPES)
            for event in self.events[one].values()
            if event["task"] == self._task(data)["id"]
            and (not wanted or event["metric"] in wanted)
            and (not wanted.get(event["metric"]) or event["variant"] in wanted[event["metric"]])
        ]
        found.sort(key=lambda event: event.get("iter") or 0, reverse=data.get("order") == "desc")
        return self._page(found, data, "events")

    def events_get_scalar_metric_data(self, data: Data) -> Data:
        query = {"event_type": "training_stats_scalar", "metrics": [{"metric": required(data, "metric")}]}
        return self.events_get_task_events({**data, **query, "order": "desc"})

    def events_get_task_log(self, data: Data) -> Data:
        return self.events_get_task_events({**data, "event_type": "log", "metrics": None})

    def events_get_task_plots(self, data: Data) -> Data:
        found = self.events_get_task_events({**data, "event_type": "plot"})
        return {**found, "plots": found["events"]}

    def events_scalar_metrics_iter_raw(self, data: Data) -> Data:
        query = {"event_type": "training_stats_scalar", "metrics": [required(data, "metric")]}
        found = self.events_get_task_events({"batch_size": EVENT_PAGE, **data, **query})
        variants: dict[str, Data] = {}
        key = data.get("key") or "iter"
        for event in found.pop("events"):
            lists = variants.setdefault(event["variant"], {"y": [], key: []})
            lists["y"].append(event["value"])
            lists[key].append(event[key])
        return {**found, "variants": variants}

    def events_scalar_metrics_iter_histogram(self, data: Data) -> Data:
        answer: Data = {}
        for event in self._of("training_stats_scalar", data):
            chart = answer.setdefault(event["metric"], {})
            line = chart.setdefault(event["variant"], {"name": event["variant"], "x": [], "y": []})
            line["x"].append(event["iter"])
            line["y"].append(event["value"])
        return answer

    def events_get_scalar_metrics_and_variants(self, data: Data) -> Data:
        answer: dict[str, list[str]] = {}
        for event in self._of("training_stats_scalar", data):
            if event["variant"] not in answer.setdefault(event["metric"], []):
                answer[event["metric"]].append(event["variant"])
        return {"metrics": answer}

    def _of(self, kind: str, data: Data) -> list[Data]:
        task = self._task(data)["id"]
        events = [event for event in self.events[kind].values() if event["task"] == task]
        return sorted(events, key=lambda event: event.get("iter") or 0)

    @staticmethod
    def _page(found: list[Data], data: Data, name: str) -> Data:
        start = int(data.get("scroll_id") or 0)
        size = min(int(data.get("batch_size") or PAGE), EVENT_PAGE)
        part = found[start : start + size]
        return {name: part, "returned": len(part), "total": len(found), "scroll_id": str(start + len(part))}


def _indexable(event: Data) -> bool:
    """Whether Elasticsearch takes it: ``value`` is mapped as ``float``, names as ``keyword``."""
    value = event.get("value")
    if isinstance(value, (int, float)):
        try:
            if not math.isfinite(value):
                return False
            struct.pack("<f", value)
        except OverflowError:
            return False
    return all(len(event[name].encode()) <= MAX_TERM for name in ("metric", "variant"))
