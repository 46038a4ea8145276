"""A ClearML server over real HTTP, in memory: API server and file server, as far as they are used here.

``python -m tests.support.clearml_server --port 8008`` runs it alone and prints the settings for a client.

Sources: *client* is ``clearml/backend_api/services/v2_*`` (the generated schemas) of clearml 2.1, *server* is
https://github.com/clearml/clearml-server, folder ``apiserver`` unless said otherwise.

=================================  ===========================================================================
endpoint                           as in the real one (source), and what is simpler here
=================================  ===========================================================================
any                                ``/service.action`` or ``/v2.x/service.action``, GET, POST or PUT with a
                                   JSON body; the answer is ``{"meta", "data"}`` and its code is the HTTP
                                   status (server ``service_repo``); error codes of ``apierrors/errors.conf``.
                                   A body over 64 MiB is 413, which in a real one a proxy answers.
auth.login                         basic auth; the token is a JWT with ``api_version``, ``server_version``,
                                   ``feature_set``, ``exp`` (client ``session/token_manager.py``); other
                                   calls need it, else 401. Here its signature is not checked.
projects.get_all, .create, ...     names unique, at least 3 characters, a parent is made for each part of
                                   ``a/b`` (server ``bll/project/project_bll.py``, ``sub_projects.py``);
                                   queries by name are regular expressions, case not ignored
tasks.create, .edit, .update, ...  names at least 3 characters, stripped (``database/model/task/task.py``);
                                   editing needs the status ``created``, or ``force`` and ``in_progress``
                                   (``bll/task/utils.py: get_task_for_update``); user properties, the section
                                   ``properties``, are open always (``bll/task/hyperparams.py``)
tasks.get_all(_ex)                 ``_all_``/``_any_`` with regular expressions, case ignored, list fields,
                                   paging of at most 500, ``order_by``, ``only_fields``
                                   (``database/model/base.py``)
tasks.started, .completed, ...     the state machine of ``bll/task/utils.py``, 400/110 where it refuses;
                                   ``force`` goes round it
tasks.add_or_update_artifacts      by key and mode (``bll/task/artifacts.py``)
events.add, .add_batch             ``bll/event/event_bll.py: add_events``. An event replaces one of the same
                                   type and ``md5("task-iter-metric-variant-key")``, joined with dashes and
                                   nothing escaped; log events are never replaced; ``iter`` beyond 64 bits
                                   fails the request although the other events are in; nothing added is
                                   400/131. ``value`` is indexed as a 32-bit float, so Elasticsearch refuses
                                   the document if it is infinite as such, and with it the request, as it
                                   does for a name over 32,766 bytes; ``_source`` keeps the JSON as it came,
                                   here and there.
events.get_task_events, ...        pages of at most 10,000 in the order of ``iter`` (``services/events.py``).
                                   The scroll id is the place in the list, there a JWT.
events.scalar_metrics_iter_raw     ``y`` and ``iter`` by variant (``services/events.py``)
models.*                           stored and found by id, tasks.add_or_update_model links them
users.get_vaults                   404 like the open server, which has no such service
file server: POST /                multipart, a part's *name* is its path, ``..`` is 404
                                   (``fileserver/fileserver.py``); GET, HEAD, DELETE /path
=================================  ===========================================================================

Faults, for tests: :attr:`ClearMLServer.fault` decides what becomes of each request.
"""

from __future__ import annotations

import argparse
import base64
import email.parser
import email.policy
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.clearml_events import ApiError, Data
from tests.support.clearml_store import Store

ACCESS_KEY, SECRET_KEY = "double-access", "double-secret"
MAX_BODY = 64 * 2**20


@dataclass
class Fault:
    """What becomes of requests: all that ``matches`` (``service.action`` or ``files``), ``count`` of them."""

    status: int = 0
    """Answer with this HTTP status instead."""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before anything happens."""
    hang: threading.Event | None = None
    """Until it is set there is no answer; then the connection is closed."""
    drop: bool = False
    """Do it, but close the connection instead of answering."""
    matches: str = ""
    count: int = 10**9
    times: list[float] = field(default_factory=list[float])
    """When it met a request, of ``time.monotonic()``."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def hits(self) -> int:
        """How many requests it has met."""
        return len(self.times)

    def applies(self, endpoint: str) -> bool:
        """Whether a request meets it, which is noted."""
        with self.changed:
            if self.hits >= self.count or not re.search(self.matches, endpoint):
                return False
            self.times.append(time.monotonic())
            self.changed.notify_all()
            return True

    def wait_until_hit(self, times: int = 1, seconds: float = 60) -> None:
        """Returns once it has met so many requests."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.hits >= times, seconds)


class ClearMLServer:
    """The server, running in threads of this process.

    Args:
        port: of the API server; 0 takes a free one. The file server has the next free one.
    """

    def __init__(self, port: int = 0, files_port: int = 0) -> None:
        self.store = Store()
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        """Endpoints that were asked for, in order."""
        self._ports = (port, files_port)
        self._servers: list[tuple[_Server, threading.Thread]] = []
        self.start()

    def start(self) -> None:
        """Listens, on the ports of before after a :meth:`stop`."""
        handlers = (_ApiHandler, _FileHandler)
        for port, handler in zip(self._ports, handlers, strict=True):
            server = _Server(port, handler, self)
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            self._servers.append((server, thread))
        self._ports = tuple(server.server_port for server, _ in self._servers)

    def stop(self) -> None:
        """Refuses connections, and closes those that are open; what was stored stays."""
        for server, thread in self._servers:
            server.shutdown()
            server.server_close()
            server.close_connections()
            thread.join()
        self._servers.clear()

    close = stop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def files_url(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    def variables(self) -> dict[str, str]:
        """The environment variables that lead a ClearML client here."""
        return {
            "CLEARML_API_HOST": self.url,
            "CLEARML_WEB_HOST": self.url,
            "CLEARML_FILES_HOST": self.files_url,
            "CLEARML_API_ACCESS_KEY": ACCESS_KEY,
            "CLEARML_API_SECRET_KEY": SECRET_KEY,
        }

    @contextmanager
    def fault(self, **how: Any) -> Generator[Fault]:
        """While it lasts, requests meet a :class:`Fault` of these arguments."""
        fault = Fault(**how)
        self.faults.append(fault)
        try:
            yield fault
        finally:
            self.faults.remove(fault)
            if fault.hang is not None:
                fault.hang.set()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, handler: type[_Handler], owner: ClearMLServer) -> None:
        self.owner = owner
        self._open: set[Any] = set()
        super().__init__(("127.0.0.1", port), handler)

    def get_request(self) -> Any:
        request = super().get_request()
        self._open.add(request[0])
        return request

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self._open):
            self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> ClearMLServer:
        return cast("_Server", self.server).owner

    def do_any(self) -> None:
        owner = self.owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        endpoint = self.endpoint()
        owner.requests.append(endpoint)
        fault = next((fault for fault in list(owner.faults) if fault.applies(endpoint)), None)
        if fault is not None:
            time.sleep(fault.delay)
            if fault.hang is not None:
                fault.hang.wait(60)
                self.close_connection = True
                return
            if fault.status:
                self.answer(fault.status, b"{}", fault.headers)
                return
        status, content, headers = self.respond(body)
        if fault is not None and fault.drop:
            self.close_connection = True
            return
        self.answer(status, content, headers)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_any  # noqa: N815 - the base class's names

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def endpoint(self) -> str:
        raise NotImplementedError

    def respond(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        raise NotImplementedError

    def log_message(self, format: str, *args: object) -> None:
        pass


class _ApiHandler(_Handler):
    def endpoint(self) -> str:
        return re.sub(r"\A/(v\d+\.\d+/)?", "", urlsplit(self.path).path)

    def respond(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        endpoint = self.endpoint()
        code, subcode, message, data, errors = 200, 0, "OK", {}, {}
        try:
            data = self._call(endpoint, body)
        except ApiError as error:
            code, subcode, message, errors = error.code, error.subcode, error.text, error.data
        except Exception as error:  # the real one answers its own bugs with 500 as well
            code, subcode, message = 500, 0, f"General server error: {error!r}"
        meta = {
            "id": uuid.uuid4().hex,
            "trx": uuid.uuid4().hex,
            "endpoint": {"name": endpoint},
            "result_code": code,
            "result_subcode": subcode,
            "result_msg": message,
            "error_data": errors,
        }
        content = json.dumps({"meta": meta, "data": data}).encode()
        return code, content, {"Content-Type": "application/json"}

    def _call(self, endpoint: str, body: bytes) -> Data:
        store = self.owner.store
        if len(body) > MAX_BODY:
            raise ApiError(413, 0, "Request Entity Too Large")
        kind, _, given = (self.headers.get("Authorization") or "").partition(" ")
        if kind == "Basic":
            if base64.b64decode(given).decode() != f"{ACCESS_KEY}:{SECRET_KEY}":
                raise ApiError(
                    401, 22, "Unauthorized (invalid credentials) (failed to locate provided credentials)"
                )
        elif kind != "Bearer" or given.count(".") != 2:
            raise ApiError(401, 20, "Unauthorized (missing credentials)")
        lines = self.headers.get("Content-Type", "").startswith("application/json-lines")
        if endpoint == "events.add_batch":
            if not lines:
                raise ApiError(400, 17, "Batch request contains no items")
            events = [_parsed(line) for line in body.splitlines() if line.strip()]
            with store.lock:
                return store.add_events(events)
        method: Callable[[Data], Data] | None = getattr(store, endpoint.replace(".", "_"), None)
        if "." not in endpoint or method is None:
            raise ApiError(404, 0, f"Unable to find endpoint for name {endpoint}")
        data = _parsed(body) if body else {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
        with store.lock:
            return json.loads(json.dumps(method(data)))  # a copy: other requests go on changing the original


class _FileHandler(_Handler):
    def endpoint(self) -> str:
        return "files"

    def respond(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        files = self.owner.store.files
        path = unquote(urlsplit(self.path).path).lstrip("/")
        if self.command == "POST":
            names = []
            for name, content in _multipart(self.headers.get("Content-Type", ""), body):
                if ".." in name.split("/"):
                    return 404, b"not found", {}
                files[name.lstrip("/")] = content
                names.append(name.lstrip("/"))
            return 200, json.dumps(names).encode(), {}
        if path not in files:
            return (200, b"OK", {}) if not path else (404, b"not found", {})
        if self.command == "DELETE":
            del files[path]
            return 200, b"", {}
        return 200, files[path], {"Content-Type": "application/octet-stream"}


def _multipart(content_type: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    header = email.parser.HeaderParser(policy=email.policy.HTTP).parsestr(f"Content-Type: {content_type}\n\n")
    boundary = b"--" + str(header.get_boundary()).encode()
    for part in body.split(boundary)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        if name:
            yield name[1].decode(), content.removesuffix(b"\r\n")


def _parsed(body: bytes) -> Any:
    def refuse(text: str) -> Any:
        raise ApiError(400, 18, f"Batch request validation error: {text} is no JSON")

    try:
        return json.loads(body, parse_constant=refuse)
    except ValueError as error:
        raise ApiError(400, 18, f"Request is no JSON: {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description="A ClearML server in memory.")
    parser.add_argument("--port", type=int, default=8008)
    parser.add_argument("--files-port", type=int, default=0)
    arguments = parser.parse_args()
    server = ClearMLServer(arguments.port, arguments.files_port)
    print("\n".join(f"export {name}={value}" for name, value in server.variables().items()), flush=True)  # noqa: T201
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    server.stop()


if __name__ == "__main__":
    main()
