"""What a ClearML server keeps, but for events: see the table of :mod:`tests.support.clearml_server`."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import uuid
from datetime import datetime, timezone
from typing import Any

from tests.support.clearml_events import PAGE, ApiError, Data, Events, required

TRANSITIONS: dict[str, set[str]] = {
    "created": {"queued", "in_progress"},
    "queued": {"created", "in_progress"},
    "in_progress": {"stopped", "failed", "created", "completed"},
    "stopped": {"closed", "created", "failed", "in_progress", "published", "publishing", "completed"},
    "closed": {"created", "failed", "published", "publishing", "stopped"},
    "failed": {"created", "stopped", "published"},
    "publishing": {"published"},
    "published": set(),
    "completed": {"published", "in_progress", "created"},
}


class Store(Events):
    """Everything that the server keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()
        self.projects: dict[str, Data] = {}
        self.tasks: dict[str, Data] = {}
        self.models: dict[str, Data] = {}
        self.files: dict[str, bytes] = {}
        self._last = 0.0

    def now(self) -> str:
        """Each call is later than the one before, so that "oldest" is defined."""
        self._last = max(time.time(), self._last + 1e-6)
        return datetime.fromtimestamp(self._last, timezone.utc).isoformat(timespec="microseconds")

    # -- projects ------------------------------------------------------------------------------
    def projects_create(self, data: Data) -> Data:
        name = "/".join(part.strip() for part in required(data, "name").split("/")).strip("/")
        if any(project["name"] == name for project in self.projects.values()):
            raise ApiError(400, 801, "Value combination already exists", name=name)
        return {"id": self._project(name, data)}

    def _project(self, name: str, data: Data) -> str:
        for project in self.projects.values():
            if project["name"] == name:
                return project["id"]
        if len(name) < 3:  # the parents too are saved, and validated
            raise ApiError(400, 800, "Data validation error", name=name)
        above = name.rpartition("/")[0]
        parent = self._project(above, {}) if above else None
        made: Data = {**data, "id": uuid.uuid4().hex, "name": name, "parent": parent, "created": self.now()}
        made.setdefault("tags", [])
        made.setdefault("system_tags", [])
        self.projects[made["id"]] = made
        return made["id"]

    def projects_get_all(self, data: Data) -> Data:
        return {"projects": _query(self.projects, data, ("name",))}

    projects_get_all_ex = projects_get_all

    def projects_get_by_id(self, data: Data) -> Data:
        return {"project": self._get(self.projects, required(data, "project"), 401, "Invalid project id")}

    def projects_update(self, data: Data) -> Data:
        project = self._get(self.projects, required(data, "project"), 401, "Invalid project id")
        project.update({key: value for key, value in data.items() if key != "project"})
        return {"updated": 1, "fields": {}}

    # -- tasks ---------------------------------------------------------------------------------
    def tasks_create(self, data: Data) -> Data:
        name = required(data, "name").strip()
        if len(name) < 3:
            raise ApiError(400, 800, "Data validation error (String value is too short)", name=name)
        required(data, "type")
        if data.get("project"):
            self._get(self.projects, data["project"], 401, "Invalid project id")
        now = self.now()
        task: Data = {
            "tags": [],
            "system_tags": [],
            "script": {},
            "hyperparams": {},
            "configuration": {},
            "execution": {},
            "runtime": {},
            "models": {"input": [], "output": []},
            "container": {},
            "output": {},
            "status_message": "",
            "status_reason": "",
            "last_iteration": 0,
            **{key: value for key, value in data.items() if value is not None},
            "id": uuid.uuid4().hex,
            "name": name,
            "status": "created",
            "created": now,
            "last_update": now,
            "user": "user",
            "company": "company",
            "last_metrics": {},
        }
        task["tags"], task["system_tags"] = sorted(task["tags"]), sorted(task["system_tags"])
        _artifacts_to_dict(task)
        self.tasks[task["id"]] = task
        return {"id": task["id"]}

    def tasks_get_by_id(self, data: Data) -> Data:
        task = self._task(data)
        return {"task": _public(task)}

    def tasks_get_all(self, data: Data) -> Data:
        return {"tasks": [_public(task) for task in _query(self.tasks, data, ("name", "comment"))]}

    tasks_get_all_ex = tasks_get_all
    tasks_get_by_id_ex = tasks_get_by_id

    def tasks_validate(self, data: Data) -> Data:
        required(data, "name")
        return {}

    def tasks_update(self, data: Data) -> Data:
        task = self._task(data)
        allowed = ("name", "tags", "system_tags", "comment", "project", "output__error", "created")
        return self._set(task, {key: data[key] for key in allowed if data.get(key) is not None})

    def tasks_edit(self, data: Data) -> Data:
        task = self._editable(data)
        values = {key: value for key, value in data.items() if key not in ("task", "force")}
        return self._set(task, {key: value for key, value in values.items() if value is not None})

    def _set(self, task: Data, values: Data) -> Data:
        if "name" in values:
            values["name"] = values["name"].strip()
            if len(values["name"]) < 3:
                raise ApiError(400, 800, "Data validation error", name=values["name"])
        for name in ("tags", "system_tags"):
            if name in values:
                values[name] = sorted(set(values[name]))
        task.update(values)
        _artifacts_to_dict(task)
        task["last_update"] = self.now()
        return {"updated": 1, "fields": values}

    def tasks_delete(self, data: Data) -> Data:
        task = self._task(data)
        if task["status"] != "created" and not data.get("force"):
            raise ApiError(400, 123, "Task cannot be deleted", force=False)
        del self.tasks[task["id"]]
        for events in self.events.values():
            for key in [key for key, event in events.items() if event["task"] == task["id"]]:
                del events[key]
        return {"deleted": True}

    def tasks_reset(self, data: Data) -> Data:
        raise AssertionError("tasks.reset deletes everything that the task has")

    def tasks_ping(self, data: Data) -> Data:
        self._task(data)["last_update"] = self.now()
        return {}

    def _change(self, data: Data, status: str, **more: Any) -> Data:
        task = self._task(data)
        before = task["status"]
        if not data.get("force") and status != before and status not in TRANSITIONS[before]:
            raise ApiError(
                400, 110, "Invalid task status (Invalid status change)", current=before, new=status
            )
        fields = {
            "status": status,
            "status_changed": self.now(),
            **more,
            "status_reason": data.get("status_reason") or "",
            "status_message": data.get("status_message") or "",
        }
        task.update(fields)
        return {"updated": 1, "fields": fields}

    def tasks_started(self, data: Data) -> Data:
        return {**self._change(data, "in_progress", started=self.now()), "started": 1}

    def tasks_completed(self, data: Data) -> Data:
        return self._change(data, "completed", completed=self.now())

    tasks_close = tasks_completed

    def tasks_failed(self, data: Data) -> Data:
        return self._change(data, "failed", completed=self.now())

    def tasks_stopped(self, data: Data) -> Data:
        return self._change(data, "stopped", completed=self.now())

    def tasks_publish(self, data: Data) -> Data:
        return self._change(data, "published")

    def tasks_stop(self, data: Data) -> Data:
        return self._change(data, "stopped")

    def tasks_set_requirements(self, data: Data) -> Data:
        self._task(data)["script"]["requirements"] = data.get("requirements")
        return {"updated": 1}

    def tasks_edit_hyper_params(self, data: Data) -> Data:
        items: list[Data] = required(data, "hyperparams")
        for item in items:
            for name in ("section", "name", "value"):
                if not isinstance(item.get(name), str) or (name != "value" and not item[name]):
                    raise ApiError(400, 12, "Validation error", field=name)
            if item["section"].lower() == "properties":
                item["section"] = "properties"
        only_properties = all(item["section"] == "properties" for item in items)
        task = self._task(data) if only_properties else self._editable(data)
        how = data.get("replace_hyperparams") or "none"
        if how == "all":
            task["hyperparams"] = {}
        elif how == "section":
            for item in items:
                task["hyperparams"].pop(item["section"], None)
        for item in items:
            kept = {
                name: item[name]
                for name in ("section", "name", "value", "type", "description")
                if name in item
            }
            task["hyperparams"].setdefault(item["section"], {})[item["name"]] = kept
        task["last_update"] = self.now()
        return {"updated": 1}

    def tasks_get_hyper_params(self, data: Data) -> Data:
        params = []
        for task_id in required(data, "tasks"):
            sections = self._task({"task": task_id})["hyperparams"]
            items = [item for section in sections.values() for item in section.values()]
            params.append({"task": task_id, "hyperparams": items})
        return {"params": params}

    def tasks_delete_hyper_params(self, data: Data) -> Data:
        sections = self._task(data)["hyperparams"]
        for item in required(data, "hyperparams"):
            if item.get("name"):
                sections.get(item["section"], {}).pop(item["name"], None)
            else:
                sections.pop(item["section"], None)
        return {"deleted": 1}

    def tasks_edit_configuration(self, data: Data) -> Data:
        task = self._editable(data)
        if data.get("replace_configuration"):
            task["configuration"] = {}
        for item in required(data, "configuration"):
            task["configuration"][required(item, "name")] = item
        return {"updated": 1}

    def tasks_get_configurations(self, data: Data) -> Data:
        found = []
        for task_id in required(data, "tasks"):
            items = self._task({"task": task_id})["configuration"].values()
            names = data.get("names")
            chosen = [item for item in items if not names or item["name"] in names]
            found.append({"task": task_id, "configuration": chosen})
        return {"configurations": found}

    def tasks_add_or_update_artifacts(self, data: Data) -> Data:
        task = self._editable(data)
        artifacts = task["execution"].setdefault("artifacts", {})
        for artifact in required(data, "artifacts"):
            required(artifact, "key")
            required(artifact, "type")
            artifacts[(artifact["key"], artifact.get("mode", "output"))] = {"mode": "output", **artifact}
        return {"updated": 1}

    def tasks_add_or_update_model(self, data: Data) -> Data:
        task = self._task(data)
        self._get(self.models, required(data, "model"), 201, "Invalid model id")
        models: list[Data] = task["models"].setdefault(required(data, "type"), [])
        models[:] = [model for model in models if model["name"] != data["name"]]
        models.append({"name": data["name"], "model": data["model"], "updated": self.now()})
        return {"updated": 1}

    def _task(self, data: Data) -> Data:
        return self._get(self.tasks, required(data, "task"), 101, "Invalid task id")

    def _editable(self, data: Data) -> Data:
        task = self._task(data)
        allowed = ("created", "in_progress") if data.get("force") else ("created",)
        if task["status"] not in allowed:
            raise ApiError(400, 110, "Invalid task status", expected="created", status=task["status"])
        return task

    @staticmethod
    def _get(table: dict[str, Data], key: str, subcode: int, message: str) -> Data:
        if key not in table:
            raise ApiError(400, subcode, message, id=key)
        return table[key]

    # -- models --------------------------------------------------------------------------------
    def models_create(self, data: Data) -> Data:
        for name in ("uri", "name"):
            required(data, name)
        model = {**data, "id": uuid.uuid4().hex, "created": self.now(), "last_update": self.now()}
        self.models[model["id"]] = model
        return {"id": model["id"], "created": True}

    def models_get_by_id(self, data: Data) -> Data:
        return {"model": self._get(self.models, required(data, "model"), 201, "Invalid model id")}

    def models_get_all(self, data: Data) -> Data:
        return {"models": _query(self.models, data, ("name",))}

    models_get_all_ex = models_get_all

    def models_update(self, data: Data) -> Data:
        model = self._get(self.models, required(data, "model"), 201, "Invalid model id")
        model.update({key: value for key, value in data.items() if key != "model" and value is not None})
        return {"updated": 1, "fields": {}}

    models_edit = models_update

    def models_add_or_update_metadata(self, data: Data) -> Data:
        model = self._get(self.models, required(data, "model"), 201, "Invalid model id")
        model.setdefault("metadata", []).extend(data.get("metadata") or [])
        return {"updated": 1}

    # -- the rest of what a client asks for -----------------------------------------------------
    def auth_login(self, data: Data) -> Data:
        claims = {"exp": int(time.time()) + 86_400, "api_version": "2.31", "server_version": "2.1.0"}
        claims |= {"server_build": "0", "feature_set": "basic", "env": "double", "auth_type": "Bearer"}
        parts = ({"alg": "HS256", "typ": "JWT"}, claims)
        encoded = [_base64url(json.dumps(part).encode()) for part in parts]
        return {"token": ".".join([*encoded, _base64url(b"\0" * 32)])}

    def queues_get_default(self, data: Data) -> Data:
        return {"id": "default", "name": "default"}

    def queues_get_all(self, data: Data) -> Data:
        return {"queues": []}

    def organization_get_tags(self, data: Data) -> Data:
        return {"tags": sorted({tag for task in self.tasks.values() for tag in task["tags"]})}

    def workers_status_report(self, data: Data) -> Data:
        return {}

    workers_register = workers_unregister = workers_status_report


def _artifacts_to_dict(task: Data) -> None:
    artifacts = (task.get("execution") or {}).get("artifacts")
    if isinstance(artifacts, list):
        task["execution"]["artifacts"] = {(a["key"], a.get("mode", "output")): a for a in artifacts}


def _public(task: Data) -> Data:
    artifacts = (task.get("execution") or {}).get("artifacts")
    if not isinstance(artifacts, dict):
        return task
    ordered = [artifacts[key] for key in sorted(artifacts)]
    return {**task, "execution": {**task["execution"], "artifacts": ordered}}


def _query(table: dict[str, Data], data: Data, patterns: tuple[str, ...]) -> list[Data]:
    found = list(table.values())
    for name in patterns:
        if data.get(name):
            found = [one for one in found if re.search(data[name], str(one.get(name, "")))]
    for name in ("id", "project", "status", "type", "parent", "user"):
        if values := data.get(name):
            wanted = values if isinstance(values, list) else [values]
            found = [one for one in found if one.get(name) in wanted]
    for name in ("tags", "system_tags"):
        for value in data.get(name) or []:
            if value.startswith("__$"):
                raise ApiError(501, 0, "the double knows no operators")
            found = [one for one in found if (value.lstrip("-") in one[name]) != value.startswith("-")]
    for operator, combine in (("_all_", all), ("_any_", any)):
        if condition := data.get(operator):
            pattern = re.compile(condition["pattern"], re.IGNORECASE)
            found = [
                one
                for one in found
                if combine(pattern.search(str(_at(one, path))) for path in condition["fields"])
            ]
    orders: Any = data.get("order_by") or []
    for order in reversed([orders] if isinstance(orders, str) else orders):
        found.sort(key=lambda one: str(_at(one, order.lstrip("-"))), reverse=order.startswith("-"))
    size = min(int(data.get("page_size") or PAGE), PAGE)
    start = int(data.get("page") or 0) * size
    found = found[start : start + size]
    if only := data.get("only_fields"):
        keep = {name.split(".")[0] for name in only} | {"id"}
        found = [{key: value for key, value in one.items() if key in keep} for one in found]
    return found


def _at(one: Data, path: str) -> Any:
    value: Any = one
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return value


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
