"""The ClearML server of the tests refuses and replaces what the real one refuses and replaces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.support import clearml_server
from tests.support.clearml_server import ACCESS_KEY, SECRET_KEY, ClearMLServer


class Client:
    def __init__(self, server: ClearMLServer) -> None:
        self.server = server
        login = requests.get(f"{server.url}/auth.login", auth=(ACCESS_KEY, SECRET_KEY), timeout=5)
        self.headers = {"Authorization": f"Bearer {login.json()['data']['token']}"}

    def call(self, endpoint: str, **data: Any) -> tuple[int, int, Any]:
        """The HTTP status, the sub-code and the data."""
        url = f"{self.server.url}/v2.23/{endpoint}"
        return self._answer(requests.get(url, json=data, headers=self.headers, timeout=5))

    def add(self, *events: dict[str, Any]) -> tuple[int, int, Any]:
        headers = {**self.headers, "Content-Type": "application/json-lines"}
        lines = "\n".join(json.dumps(event) for event in events)
        url = f"{self.server.url}/v2.23/events.add_batch"
        return self._answer(requests.post(url, data=lines, headers=headers, timeout=5))

    @staticmethod
    def _answer(response: requests.Response) -> tuple[int, int, Any]:
        meta, data = response.json()["meta"], response.json()["data"]
        assert meta["result_code"] == response.status_code
        return response.status_code, meta["result_subcode"], data


@pytest.fixture
def client() -> Iterator[Client]:
    server = ClearMLServer()
    yield Client(server)
    server.close()


@pytest.fixture
def task(client: Client) -> str:
    return client.call("tasks.create", name="task", type="training")[2]["id"]


def scalar(task: str, metric: str, variant: str, value: float, **more: Any) -> dict[str, Any]:
    fields = {"task": task, "metric": metric, "variant": variant, "value": value, "iter": 1, "timestamp": 1}
    return {"type": "training_stats_scalar", **fields, **more}


def values(client: Client) -> list[float]:
    return sorted(event["value"] for event in client.server.store.events["training_stats_scalar"].values())


def test_an_event_replaces_one_of_the_same_name_and_step(client: Client, task: str) -> None:
    client.add(scalar(task, "a", "b", 1.0), scalar(task, "a", "b", 2.0, iter=2), scalar(task, "a", "b", 3.0))
    assert values(client) == [2.0, 3.0]


def test_names_are_joined_with_dashes(client: Client, task: str) -> None:
    client.add(scalar(task, "a-b", "c", 1.0), scalar(task, "a", "b-c", 2.0))
    assert values(client) == [2.0]
    client.add(scalar(task, "a-b", "c", 3.0, key="3"), scalar(task, "a", "b-c", 4.0, key="1"))
    assert values(client) == [2.0, 3.0, 4.0]


def test_log_events_are_never_replaced(client: Client, task: str) -> None:
    for _ in range(2):
        client.add({"type": "log", "task": task, "msg": "x", "timestamp": 1})
    assert len(client.server.store.events["log"]) == 2


def test_some_bad_events_are_counted(client: Client, task: str) -> None:
    status, _, data = client.add(scalar(task, "a", "b", 1.0), {"task": task}, scalar("none", "a", "b", 1.0))
    assert (status, data["added"], data["errors"]) == (200, 1, 2)
    assert client.add(scalar("none", "a", "b", 1.0))[:2] == (400, 131)
    assert client.add()[:2] == (400, 17)


@pytest.mark.parametrize("bad", [{"iter": 2**63}, {"value": 3.5e38}, {"metric": "x" * 33_000}])
def test_what_cannot_be_indexed_fails_the_request(client: Client, task: str, bad: dict[str, Any]) -> None:
    status, _, _ = client.add(scalar(task, "a", "b", 1.0), {**scalar(task, "a", "c", 1.0), **bad})
    assert status == 500
    assert values(client) == [1.0]  # the others are in nevertheless


def test_nan_is_no_json(client: Client, task: str) -> None:
    assert client.add(scalar(task, "a", "b", float("nan")))[0] == 400


@pytest.mark.parametrize(
    ("before", "action", "allowed"),
    [
        ("created", "started", True),
        ("created", "completed", False),
        ("in_progress", "stopped", True),
        ("failed", "started", False),
        ("failed", "completed", False),
        ("completed", "started", True),
        ("published", "started", False),
    ],
)
def test_the_status_changes_as_it_may(
    client: Client, task: str, before: str, action: str, allowed: bool
) -> None:
    client.server.store.tasks[task]["status"] = before
    assert client.call(f"tasks.{action}", task=task)[:2] == ((200, 0) if allowed else (400, 110))
    assert client.call(f"tasks.{action}", task=task, force=True)[0] == 200


def test_only_running_tasks_are_edited(client: Client, task: str) -> None:
    item = {"name": "lr", "value": "1"}

    def edit(section: str, **more: Any) -> tuple[int, int]:
        return client.call(
            "tasks.edit_hyper_params", task=task, hyperparams=[{**item, "section": section}], **more
        )[:2]

    assert edit("General") == (200, 0)
    client.call("tasks.started", task=task)
    assert edit("General") == (400, 110)
    assert edit("General", force=True) == (200, 0)
    client.call("tasks.completed", task=task)
    assert edit("General", force=True) == (400, 110)
    assert edit("properties") == (200, 0)


def test_unknown_things_have_the_real_codes(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.call("tasks.get_by_id", task="none")[:2] == (400, 101)
    assert client.call("tasks.get_by_id")[:2] == (400, 11)
    assert client.call("tasks.create", name="ab", type="training")[:2] == (400, 800)
    assert client.call("projects.create", name="project")[0] == 200
    assert client.call("projects.create", name="project")[:2] == (400, 801)
    assert client.call("nothing.known")[0] == 404
    assert requests.get(f"{client.server.url}/tasks.get_all", timeout=5).status_code == 401
    monkeypatch.setattr(clearml_server, "MAX_BODY", 10)
    assert client.call("tasks.get_all", name="x" * 20)[0] == 413
