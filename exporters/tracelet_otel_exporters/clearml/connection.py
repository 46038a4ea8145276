"""The connection to one ClearML server: its library without its side effects, its REST API, errors as types.

``import clearml`` patches ``argparse``, and ``Task.init`` forks, takes signals and wraps frameworks. Only
the package's REST client is needed here, and it is imported under a name of its own, as a copy that shares
nothing with the user's ``clearml``: settings, versions, connections. So the user's own import does everything
that it would do without us, before or after.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import socket
import sys
import types
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracelet_otel.foundation.errors import DeliveryError, PermanentError, TransientError
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel_exporters.shared.importing import IMPORTING, passes

TIMEOUT: Final = (3.0, 15.0)
"""Seconds to connect, and to wait for an answer."""
UPLOAD_TIMEOUT: Final = (3.0, 30.0)
"""The same for files: what counts is the wait for the answer after the last byte."""
MAX_API: Final = (2, 23)
"""The newest version of the API that this was written for; an older server's is used where it has none."""

_ALIAS: Final = "_tracelet_otel_clearml"
_TRANSIENT: Final = {408, 425, 429, 500, 502, 503, 504}
_LOGGER: Final = get_logger(__name__)


class RefusedError(PermanentError):
    """The server's own refusal, with its error codes (``apiserver/apierrors/errors.conf``)."""

    def __init__(self, message: str, code: int, subcode: int) -> None:
        super().__init__(message)
        self.code = code
        self.subcode = subcode

    @property
    def is_status(self) -> bool:
        """Whether the task's status does not allow it: it ended, or was stopped by the server."""
        return (self.code, self.subcode) == (400, 110)

    @property
    def is_taken(self) -> bool:
        """Whether there is one of this name already."""
        return (self.code, self.subcode) == (400, 801)

    @property
    def is_content(self) -> bool:
        """Whether something among the events is what the server refuses, or how many they are."""
        if "Invalid task id" in str(self):  # deleted or published, so nothing helps
            return False
        return self.code in {400, 413, 500}


class Library(NamedTuple):
    """What is used of the client library."""

    session: Any
    """The class ``Session``, ours below it."""
    load_config: Any
    parse_config: Any
    environment: Any
    """The module of the variables' names."""


def load_library() -> Library:
    """Imports the REST client.

    Raises:
        PermanentError: it is not installed, or not the one that this was written for.
    """
    with IMPORTING:
        return _load_library()


@functools.cache
def _load_library() -> Library:
    spec = importlib.util.find_spec("clearml")
    if spec is None or not spec.submodule_search_locations:
        raise PermanentError('ClearML is not installed: pip install "tracelet-otel[clearml]"')
    package = types.ModuleType(_ALIAS)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[_ALIAS] = package
    try:
        session: Any = importlib.import_module(f"{_ALIAS}.backend_api.session.session")
        backend: Any = importlib.import_module(f"{_ALIAS}.backend_api")
        parser: Any = importlib.import_module(f"{_ALIAS}.utilities.pyhocon")
        defs: Any = importlib.import_module(f"{_ALIAS}.backend_api.session.defs")
        # What these two do is for the whole process: urllib3's settings and a filter on its logger.
        session.get_http_session_with_retry = functools.partial(_open_http, _http_class(), defs)
        session.urllib_log_warning_setup = _ignore
        return Library(_session_class(session.Session, defs), backend.load_config, parser.ConfigFactory, defs)
    except (ImportError, AttributeError) as error:
        if passes(error):
            raise TransientError(str(error)) from error
        raise PermanentError(f"this version of ClearML's library is not supported: {error}") from error


def _open_http(http: Any, defs: Any, config: Any = None, **_: object) -> Any:
    return http(config, defs)


def _ignore(**_: object) -> None:
    """Does nothing."""


def _session_class(base: Any, defs: Any) -> Any:
    class Session(base):
        _session_initial_timeout = TIMEOUT
        _session_timeout = TIMEOUT
        _write_session_timeout = TIMEOUT

        def _load_vaults(self) -> None:
            # As ClearML's own, but for the settings of the whole process.
            if not defs.ENV_DISABLE_VAULT_SUPPORT.get() and (vaults := self._read_vaults()):
                self.config.set_overrides(*vaults)

        def _apply_config_sections(self, local_logger: object) -> None:
            """Nothing: it would set the process's environment and write files."""

        def _do_refresh_token(self, *arguments: Any, **options: Any) -> str:
            before = os.environ.get("CLEARML_AUTH_TOKEN")
            try:
                return str(super()._do_refresh_token(*arguments, **options))  # pyright: ignore[reportUnknownMemberType,reportUnknownArgumentType]
            finally:
                if before is not None:
                    os.environ["CLEARML_AUTH_TOKEN"] = before

    return Session


def _http_class() -> Any:
    import requests

    class Http(requests.Session):
        """One attempt, with bounded waits; the delivery above retries."""

        def __init__(self, config: Any, defs: Any) -> None:
            super().__init__()
            verify: Any = defs.ENV_HOST_VERIFY_CERT.get(default=config.get("api.verify_certificate", True))
            if isinstance(verify, str) and verify.lower() in {"0", "1", "false", "true", "no", "yes"}:
                verify = verify.lower() in {"1", "true", "yes"}
            self.verify = verify

        def request(self, method: Any, url: Any, *arguments: Any, **options: Any) -> Any:
            try:
                response = super().request(method, url, *arguments, **options)
            except requests.exceptions.SSLError as error:
                raise PermanentError(f"ClearML's certificate was refused: {error}") from error
            except (
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
            ) as error:
                raise TransientError(f"ClearML cannot be reached: {error}") from error
            except requests.RequestException as error:
                raise PermanentError(f"ClearML cannot be asked: {error}") from error
            if response.status_code in _TRANSIENT and "failed to index" not in response.text:
                raise TransientError(
                    f"ClearML answered {response.status_code}: {response.text[:300]}",
                    _retry_after(response.headers),
                )
            return response

    return Http


class Connection:
    """A session of our own with one server; logs in in the constructor.

    Args:
        config_file: a ``clearml.conf`` whose settings win over the default ones. None: as ClearML finds it.

    Raises:
        TransientError: the server cannot be reached.
        PermanentError: ClearML is not installed or not configured, or refuses the credentials.
    """

    def __init__(self, config_file: Path | None) -> None:
        library = load_library()
        with errors():
            config = library.load_config()
            if config_file is not None:
                config.set_overrides(library.parse_config.parse_file(str(config_file)))
            _check(library, config)
            self.session: Any = library.session(
                config=config,
                logger=_LOGGER,
                worker=os.environ.get("CLEARML_WORKER_NAME") or socket.gethostname(),
            )
            self.files_host = str(library.session.get_files_server_host(config))
        try:
            self.web_host = str(library.session.get_app_server_host(config))
        except ValueError:
            self.web_host = ""
        version = tuple(int(part) for part in str(library.session.api_version).split(".")[:2])
        self._version = ".".join(map(str, min(version, MAX_API)))

    @property
    def host(self) -> str:
        """The API server's address."""
        return str(self.session.host)

    @property
    def worker(self) -> str:
        """By what ClearML knows this machine."""
        return str(self.session.worker)

    @property
    def http(self) -> Any:
        """The connection pool, for files."""
        return self.session._Session__http_session

    def call(self, service: str, action: str, **data: Any) -> Any:
        """Calls ``service.action`` and returns the ``data`` of its answer.

        Raises:
            RefusedError: the server refused it.
            TransientError: it may work later.
        """
        with errors():
            response = self.session.send_request(service, action, version=self._version, json=data)
            return _content(response, f"{service}.{action}")

    def add_events(self, lines: bytes) -> Mapping[str, Any]:
        """Sends events, one JSON object a line; all of one call are added at once."""
        headers = {"Content-Type": "application/json-lines"}
        with errors():
            response = self.session.send_request(
                "events", "add_batch", version=self._version, headers=headers, data=lines
            )
            return _content(response, "events.add_batch")

    def post_file(self, body: Any, content_type: str) -> None:
        """Posts a multipart body to the file server."""
        headers = self.session.add_auth_headers({"Content-Type": content_type})
        with errors():
            response = self.http.post(
                self.files_host + "/", data=body, headers=headers, timeout=UPLOAD_TIMEOUT
            )
        if response.status_code != 200:
            text = f"the file server answered {response.status_code}: {response.text[:300]}"
            raise RefusedError(text, response.status_code, 0)

    def get_file(self, url: str) -> bytes:
        """A file's content, from the file server."""
        with errors():
            headers = self.session.add_auth_headers({})
            response = self.http.get(url, headers=headers, timeout=UPLOAD_TIMEOUT)
        if response.status_code != 200:
            raise RefusedError(f"the file server answered {response.status_code}", response.status_code, 0)
        return bytes(response.content)

    def ping(self) -> None:
        """Asks for something that every server answers quickly."""
        self.call("projects", "get_all", page=0, page_size=1, only_fields=["id"])

    def close(self) -> None:
        """Closes the connections."""
        self.http.close()


@contextlib.contextmanager
def errors() -> Generator[None]:
    """Raises what the library raises as the delivery's two types of error."""
    try:
        yield
    except DeliveryError:
        raise
    except Exception as error:
        raise translated(error) from error


def translated(error: BaseException) -> DeliveryError:
    """The delivery's error for one of the library; its own wrap ours, for example at the login."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, DeliveryError):
            return inner
        inner = inner.__cause__ or inner.__context__
    text = f"{type(error).__name__}: {error}"
    if "cannot schedule new futures" in text:
        return TransientError(text)  # the interpreter's exit
    if isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, PermissionError)):
        return TransientError(text)
    return PermanentError(text)


def _check(library: Library, config: Any) -> None:
    defs = library.environment
    if defs.ENV_OFFLINE_MODE.get():
        raise PermanentError("CLEARML_OFFLINE_MODE is set, so nothing can be delivered to a ClearML server")
    _as_the_user_set(library.session)
    keys = (
        (defs.ENV_ACCESS_KEY, "api.credentials.access_key", library.session.default_key),
        (defs.ENV_SECRET_KEY, "api.credentials.secret_key", library.session.default_secret),
    )
    given = [variable.get() or config.get(name, None) or default for variable, name, default in keys]
    if not all(given) and not defs.ENV_AUTH_TOKEN.get():
        raise PermanentError(
            "ClearML has no credentials: run clearml-init, or set CLEARML_API_HOST, CLEARML_WEB_HOST, "
            "CLEARML_FILES_HOST, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY"
        )


def _as_the_user_set(session: Any) -> None:
    """Takes over what ``Task.set_credentials`` has set in the user's own copy of the library."""
    module = sys.modules.get("clearml.backend_api.session.session")
    users: Any = getattr(module, "Session", None)
    for name in ("default_host", "default_web", "default_files", "default_key", "default_secret"):
        if hasattr(users, name):
            setattr(session, name, getattr(users, name))


def _content(response: Any, endpoint: str) -> Any:
    try:
        answer: Any = response.json()
        meta: Any = answer["meta"]
        data: Any = answer.get("data")
    except (ValueError, KeyError, TypeError) as error:
        if response.status_code == 413:
            raise RefusedError(f"{endpoint}: the request is too large", 413, 0) from error
        text = f"{endpoint}: no ClearML server answers {response.status_code}: {response.text[:200]}"
        raise PermanentError(text) from error
    if response.status_code != 200:
        text = f"{endpoint}: {meta.get('result_msg')}"
        raise RefusedError(text, response.status_code, int(meta.get("result_subcode") or 0))
    return {} if data is None else data


def _retry_after(headers: Mapping[str, str]) -> float | None:
    with contextlib.suppress(ValueError):
        return max(0.0, float(headers.get("Retry-After", "")))
    return None


def json_lines(events: Iterable[Mapping[str, object]]) -> bytes:
    """Events as :meth:`Connection.add_events` takes them."""
    return "\n".join(json.dumps(event, allow_nan=False) for event in events).encode()
