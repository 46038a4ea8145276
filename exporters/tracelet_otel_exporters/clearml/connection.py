"""The connection to one ClearML server: its REST API, with errors as types."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tracelet_otel.foundation.errors import DeliveryError, PermanentError
from tracelet_otel.foundation.logs import get_logger
from tracelet_otel_exporters.clearml import private
from tracelet_otel_exporters.clearml.library import Library, load_library
from tracelet_otel_exporters.shared.client_errors import ClientErrors

UPLOAD_TIMEOUT: Final = (3.0, 30.0)
"""Seconds to connect, and to wait for the answer after the last byte of a file."""
MAX_API: Final = (2, 23)
"""The newest version of the API that this was written for; an older server's is used where it has none."""

_LOGGER: Final = get_logger(__name__)


class ClearMLRefusedError(PermanentError):
    """The server's own refusal, with its error codes (``apiserver/apierrors/errors.conf``)."""

    def __init__(self, message: str, code: int, subcode: int = 0) -> None:
        super().__init__(message)
        self.is_status = (code, subcode) == (400, 110)
        """Whether the task's status does not allow it: it ended, or was stopped by the server."""
        self.is_taken = (code, subcode) == (400, 801)
        """Whether there is one of this name already."""
        # A task that is deleted or published is refused with the same codes, but nothing helps then.
        self.is_content = code in {400, 413, 500} and "Invalid task id" not in message
        """Whether something among the events is what the server refuses, or how many they are."""


class ClearMLConnection:
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
                if library.parse_config is None:
                    raise PermanentError(f"this version of ClearML's library takes no file: {config_file}")
                config.set_overrides(library.parse_config.parse_file(str(config_file)))
            _check(library, config)
            self._http: Any = library.http(config)
            self.session: Any = library.session(
                config=config,
                logger=_LOGGER,
                worker=os.environ.get("CLEARML_WORKER_NAME") or socket.gethostname(),
            )
            self.host, self.worker = str(self.session.host), str(self.session.worker)
            self.files_host = str(library.session.get_files_server_host(config))
        self.web_host = ""
        with contextlib.suppress(ValueError):
            self.web_host = str(library.session.get_app_server_host(config))
        version = tuple(int(part) for part in str(library.session.api_version).split(".")[:2])
        self._version = ".".join(map(str, min(version, MAX_API)))

    def call(self, service: str, action: str, **data: Any) -> Any:
        """Calls ``service.action`` and returns the ``data`` of its answer.

        Raises:
            ClearMLRefusedError: the server refused it.
            TransientError: it may work later.
        """
        return self._send(service, action, json=data)

    def add_events(self, lines: bytes) -> Mapping[str, Any]:
        """Sends events, one JSON object a line; all of one call are added at once."""
        headers = {"Content-Type": "application/json-lines"}
        return self._send("events", "add_batch", headers=headers, data=lines)

    def _send(self, service: str, action: str, **content: Any) -> Any:
        endpoint = f"{service}.{action}"
        with errors():
            response = self.session.send_request(service, action, version=self._version, **content)
            try:
                answer: Any = response.json()
                meta: Any = answer["meta"]
                data: Any = answer.get("data")
            except (ValueError, KeyError, TypeError) as error:
                if response.status_code == 413:
                    raise ClearMLRefusedError(f"{endpoint}: the request is too large", 413) from error
                text = f"{endpoint}: no ClearML server answers {response.status_code}: {response.text[:200]}"
                raise PermanentError(text) from error
            if response.status_code != 200:
                text = f"{endpoint}: {meta.get('result_msg')}"
                raise ClearMLRefusedError(text, response.status_code, int(meta.get("result_subcode") or 0))
            return {} if data is None else data

    def ask_file_server(self, method: str, url: str, content_type: str = "", body: Any = None) -> bytes:
        """Sends a file server's request: POST of a multipart body, or GET of a file."""
        with errors():
            headers = self.session.add_auth_headers({"Content-Type": content_type} if content_type else {})
            response = self._http.request(method, url, data=body, headers=headers, timeout=UPLOAD_TIMEOUT)
        if response.status_code != 200:
            text = f"the file server answered {response.status_code}: {response.text[:300]}"
            raise ClearMLRefusedError(text, response.status_code)
        return bytes(response.content)

    def ping(self) -> None:
        """Asks for something that every server answers quickly."""
        self.call("projects", "get_all", page=0, page_size=1, only_fields=["id"])

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()


def _own_error(error: Exception) -> DeliveryError | None:
    """The delivery error that the library has wrapped in one of its own, for example at the login."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, DeliveryError):
            return inner
        inner = inner.__cause__ or inner.__context__
    return PermanentError(f"FileNotFoundError: {error}") if isinstance(error, FileNotFoundError) else None


errors: Final = ClientErrors("ClearML", "clearml", own=_own_error)
"""``with errors():`` raises what the library raises as delivery errors."""


def _check(library: Library, config: Any) -> None:
    if private.variable(private.OFFLINE, library.variables):
        raise PermanentError("CLEARML_OFFLINE_MODE is set, so nothing can be delivered to a ClearML server")
    # What Task.set_credentials has set in the user's own copy of the library holds for ours too.
    users: Any = getattr(sys.modules.get("clearml.backend_api.session.session"), "Session", None)
    for name in ("default_host", "default_web", "default_files", "default_key", "default_secret"):
        if hasattr(users, name):
            setattr(library.session, name, getattr(users, name))
    variables = library.variables
    keys = (private.ACCESS_KEY, private.SECRET_KEY)
    if any(name.get(variables) is None for name in (*keys, private.AUTH_TOKEN)):
        return  # whether the user set them is not known here; the login will tell
    defaults = (library.session.default_key, library.session.default_secret)
    settings = ("api.credentials.access_key", "api.credentials.secret_key")
    given = [
        private.variable(name, variables) or config.get(setting, None) or default
        for name, setting, default in zip(keys, settings, defaults, strict=True)
    ]
    if not all(given) and not private.variable(private.AUTH_TOKEN, variables):
        raise PermanentError(
            "ClearML has no credentials: run clearml-init, or set CLEARML_API_HOST, CLEARML_WEB_HOST, "
            "CLEARML_FILES_HOST, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY"
        )
