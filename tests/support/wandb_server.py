"""A small server that speaks what ``wandb-core`` says to W&B, over real HTTP, and keeps what arrives.

What each endpoint takes and answers is from W&B's sources (github.com/wandb/wandb, folder ``core``):

- ``POST /graphql``: ``api/graphql/*.graphql``, told apart by the operation's name.
- ``POST /files/<entity>/<project>/<run>/file_stream``: ``internal/filestream/filestreamrequest.go``; each
  file is a list of lines from an offset on, and ``wandb-summary.json`` one line that is replaced.
- ``PUT`` to the URLs that ``CreateRunFiles`` hands out: ``internal/filetransfer``.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

ENTITY = "somebody"


@dataclass
class StoredRun:
    """A run as the server has it."""

    name: str
    project: str = ""
    display_name: str = ""
    group: str = ""
    state: str = "running"
    tags: list[str] = field(default_factory=list[str])
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    history: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    """By client, empty but in shared mode, and offset."""
    events: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    summary: str = "{}"
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    exit_code: int | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, in the order of its lines."""
        return [json.loads(self.history[offset]) for offset in sorted(self.history)]


class WandbServer(ThreadingHTTPServer):
    """The server; a context manager."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, StoredRun] = {}
        self.operations: list[str] = []
        self.down = threading.Event()
        """While it is set every request is answered with 503."""
        self.stuck: set[str] = set()
        """Runs that GraphQL's requests about are answered with 503."""
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    def __enter__(self) -> WandbServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that ended within its request is none."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        operation = found[1] if found else ""
        self.operations.append(operation)
        answer = getattr(self, f"_{operation}", None)
        return {} if answer is None else answer(variables)

    def _Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}

    def _ServerFeaturesQuery(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": ENTITY}}
        if run is None:
            return {"model": {**project, "bucket": None}}
        tail = json.dumps([run.history[max(run.history)]] if run.history else [])
        events = json.dumps([run.events[max(run.events)]] if run.events else [])
        bucket = {
            "id": run.name,
            "name": run.name,
            "summaryMetrics": run.summary,
            "displayName": run.display_name,
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": len(run.events),
            "historyTail": tail,
            "eventsTail": events,
            "config": json.dumps(run.config),
            "tags": run.tags,
            "runInfo": {"args": []},
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {**project, "bucket": bucket}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or variables["id"]
        is_new = name not in self.runs
        run = self.runs.setdefault(name, StoredRun(name))
        run.project = variables.get("project") or run.project
        run.display_name = variables.get("displayName") or run.display_name or name
        run.group = variables.get("groupName") or run.group
        run.state = variables.get("state") or run.state
        if variables.get("tags") is not None:
            run.tags = variables["tags"]
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": run.name,
            "name": run.name,
            "displayName": run.display_name,
            "description": "",
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/storage/{variables['run']}/{name}"}
            for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def stream(self, name: str, request: dict[str, Any], client: str) -> None:
        """Takes one request of the file stream; in W&B's shared mode each client counts its own lines."""
        run = self.runs[name]
        for file, part in (request.get("files") or {}).items():
            if file == "wandb-summary.json":
                run.summary = part["content"][-1]
            lines = {"wandb-history.jsonl": run.history, "wandb-events.jsonl": run.events}.get(file)
            if lines is not None:
                lines.update({(client, part["offset"] + i): line for i, line in enumerate(part["content"])})
        if request.get("complete"):
            run.exit_code = request.get("exitcode") or 0
            run.state = "finished" if run.exit_code == 0 else "failed"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_any(self) -> None:
        server = self.server
        assert isinstance(server, WandbServer)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if server.down.is_set():
            self._answer(503, {})
            return
        path = unquote(urlsplit(self.path).path)
        with server.lock:
            if path == "/graphql":
                request = json.loads(body)
                if (request.get("variables") or {}).get("name") in server.stuck:
                    self._answer(503, {})
                    return
                self._answer(200, {"data": server.graphql(request["query"], request.get("variables") or {})})
            elif found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
                is_shared = self.headers.get("X-Wandb-Use-Async-Filestream") == "true"
                client = self.headers["X-Wandb-Async-Client-Id"] if is_shared else ""
                server.stream(found[1], json.loads(body), client)
                self._answer(200, {})
            elif found := re.fullmatch(r"/storage/([^/]+)/(.+)", path):
                server.runs[found[1]].files[found[2]] = body
                self._answer(200, {})
            else:
                self._answer(404, {})

    do_GET = do_POST = do_PUT = do_any  # noqa: N815 - the base class's names

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass
